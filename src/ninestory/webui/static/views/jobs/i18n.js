// The words of this folder, in both languages. Its modules import `t` from here, so the words are there when they are used.
import { addWords } from "../../i18n.js";

export * from "../../i18n.js";

addWords({
  en: {
    kind_inspect: "Look at training data",
    kind: "Kind",
    resume: "Resume",
    created: "Created",
    running: "running",
    queued: "queued",
    waiting: "waiting",
    dismiss: "Dismiss",
    succeeded: "succeeded",
    failed: "failed",
    cancelled: "cancelled",
    jobsHelp: "Downloads, tuning and other long work stand here. They go on when this page is closed and after a restart of the server.",
    noJobs: "No long work yet. A download from Models begins here.",
    kind_pull: "Download",
    kind_tune: "Tuning",
    allJobs: "All jobs",
    noLog: "Nothing is logged yet.",
  },
  zh: {
    kind_inspect: "查看训练数据",
    kind: "类型",
    resume: "继续",
    created: "创建时间",
    running: "运行中",
    queued: "排队中",
    waiting: "等待中",
    dismiss: "移除",
    succeeded: "已完成",
    failed: "失败",
    cancelled: "已取消",
    jobsHelp: "下载、微调等耗时工作列在这里；关闭页面或重启服务后会继续。",
    noJobs: "还没有耗时任务。在“模型”中开始下载后会列在这里。",
    kind_pull: "下载",
    kind_tune: "微调",
    allJobs: "全部任务",
    noLog: "还没有日志。",
  },
});
