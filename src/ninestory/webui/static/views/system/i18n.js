// The words of this folder, in both languages. Its modules import `t` from here, so the words are there when they are used.
import { addWords } from "../../i18n.js";

export * from "../../i18n.js";

addWords({
  en: {
    machine: "Machine",
    configuration: "Configuration",
    setting: "Setting",
    meaning: "Meaning",
    requests: "Recent requests",
    free: "{free} of {total} free",
    time: "Time",
    duration: "Duration",
    processor: "Processor",
    freeCores: "{free} of {total} cores free",
    disk: "Data folder",
    gateway: "This server",
    origin_default: "default",
    origin_flag: "flag",
    health: "Health",
    serverAnswers: "The server answers.",
    process: "Process",
    noneLoaded: "No model is loaded; one is started when it is first asked.",
  },
  zh: {
    machine: "机器",
    configuration: "配置",
    setting: "设置项",
    meaning: "含义",
    requests: "最近的请求",
    free: "可用 {free} / {total}",
    time: "时间",
    duration: "用时",
    processor: "处理器",
    freeCores: "空闲 {free} / {total} 核",
    disk: "数据目录",
    gateway: "本服务器",
    origin_default: "默认",
    origin_flag: "命令行参数",
    health: "健康状况",
    serverAnswers: "服务器正常响应。",
    process: "进程号",
    noneLoaded: "没有已加载的模型；首次提问时会自动加载。",
  },
});
