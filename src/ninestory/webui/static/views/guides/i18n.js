// The words of this folder, in both languages. Its modules import `t` from here, so the words are there when they are used.
import { addWords } from "../../i18n.js";

export * from "../../i18n.js";

addWords({
  en: {
    searchGuides: "Search guides",
    runIt: "Copy the command",
    chooseGuide: "Choose a guide. Each says what a system is, whether it fits, and how to run it.",
    allGuides: "All guides",
  },
  zh: {
    searchGuides: "搜索指南",
    runIt: "复制命令",
    chooseGuide: "请选择一篇指南：介绍系统、能否放得下、如何运行。",
    allGuides: "全部指南",
  },
});
