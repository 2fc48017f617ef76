// A conversation as a Markdown file that one can read, and that can be imported again.
import { t } from "./i18n.js";
import { newMessage, pathOf, textOf } from "./tree.js";

// A comment, which readers of Markdown do not show, says where a message begins and whose it is.
const MARK = /^<!-- message: (system|user|assistant) -->$/;
const ESCAPED = /^(\\*)(<!-- message: |# |## )/;

/** The path that is shown; other branches are in the JSON export only. */
export function toMarkdown(conversation) {
  const parts = pathOf(conversation).filter((m) => m.role !== "tool").map((m) => {
    const text = textOf(m).split("\n").map((line) => line.replace(ESCAPED, "\\$1$2")).join("\n");
    return `<!-- message: ${m.role} -->\n## ${m.role === "user" ? t("you") : t("assistant")}\n\n${text}\n`;
  });
  return `# ${conversation.title.replaceAll("\n", " ") || t("untitled")}\n\n${parts.join("\n")}`;
}

/** The body of POST /conversations, or null when the file holds no conversation. */
export function fromMarkdown(text, name) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const title = lines[0].startsWith("# ") ? lines[0].slice(2).trim() : name.replace(/\.\w+$/, "");
  const messages = [];
  let words = [];
  const close = () => {
    if (messages.length) messages[messages.length - 1].content = words.join("\n").trim();
  };
  for (const line of lines) {
    const role = line.match(MARK)?.[1];
    if (role) {
      close();
      messages.push(newMessage(role, messages[messages.length - 1]?.id ?? null, ""));
      words = [];
    } else if (!(line.startsWith("## ") && !words.length)) {
      words.push(line.replace(/^\\(\\*)(<!-- message: |# |## )/, "$1$2"));
    }
  }
  close();
  if (!messages.length) return null;
  return { title: title.slice(0, 300), messages, leaf: messages[messages.length - 1].id };
}
