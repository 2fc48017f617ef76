// Streaming Markdown without quadratic cost: only blocks whose source changed are rebuilt; a block is coloured when done.
import { marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";
import { copyText, LONGEST_LINE } from "./parts.js";

const MOST_BLOCKS = 2000;
marked.use({ gfm: true, breaks: false });

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "IMG" && !/^(data:image\/|blob:|\/(?![/\\]))/.test(node.getAttribute("src") || "")) node.remove();
  if (node.tagName === "A") { node.rel = "noopener noreferrer"; node.target = "_blank"; }
});
const clean = (html) => DOMPurify.sanitize(html, { FORBID_TAGS: ["style", "form", "input", "iframe"], FORBID_ATTR: ["style"] });

let highlighter, mathematics;
const loadHighlighter = () => (highlighter ??= import("./vendor/highlight.js").then((m) => m.default));
const loadMathematics = () => (mathematics ??= new Promise((resolve, reject) => {
  const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/ui/vendor/katex.css" });
  const script = Object.assign(document.createElement("script"), { src: "/ui/vendor/katex.js", onload: () => resolve(window.katex), onerror: reject });
  document.head.append(sheet, script);
}));

/** Render `text` into `element`; `live` while more may come. */
export function render(element, text, live, labels) {
  const tokens = marked.lexer(shorten(text)).filter((token) => token.type !== "space").slice(0, MOST_BLOCKS);
  tokens.forEach((token, i) => {
    const last = live && i === tokens.length - 1;
    let block = element.children[i];
    if (block && block.raw === token.raw && block.last === last && block.words === labels.copy) return;
    if (!block) element.append((block = document.createElement("div")));
    if (block.raw !== token.raw || block.words !== labels.copy) block.innerHTML = clean(marked.parser([token]));
    Object.assign(block, { raw: token.raw, last, words: labels.copy });
    if (!last) enrich(block, labels);
  });
  while (element.children.length > tokens.length) element.lastChild.remove();
}

function shorten(text) {
  if (text.length < LONGEST_LINE) return text;
  return text.split("\n").map((line) => (line.length > LONGEST_LINE ? `${line.slice(0, LONGEST_LINE)} …` : line)).join("\n");
}

/** What one types of a console session: the lines after the prompt, without it. */
const commandsOf = (text) => text.split("\n").filter((line) => line.startsWith("$ ")).map((line) => line.slice(2)).join("\n") || text;

function enrich(block, labels) {
  for (const code of block.querySelectorAll("pre > code")) {
    const pre = code.parentElement, name = (code.className.match(/language-([\w-]+)/) || [])[1];
    const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: labels.copy });
    button.onclick = async () => {
      await copyText(name === "console" ? commandsOf(code.textContent) : code.textContent);
      button.textContent = labels.copied;
      setTimeout(() => (button.textContent = labels.copy), 1500);
    };
    pre.append(button);
    if (name && code.textContent.length < 50000) {
      loadHighlighter().then((hljs) => { if (hljs.getLanguage(name)) code.innerHTML = hljs.highlight(code.textContent, { language: name }).value; });
    }
  }
  for (const table of block.querySelectorAll("table")) {
    const frame = Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  if (/\$[^$]+\$|\\\(|\\\[/.test(block.textContent) && !block.querySelector("pre")) loadMathematics().then((katex) => formulas(block, katex));
}

const FORMULA = /\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[([\s\S]+?)\\\]/g;
function formulas(block, katex) {
  const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) if (!walker.currentNode.parentElement.closest("code")) nodes.push(walker.currentNode);
  for (const node of nodes) {
    const parts = [...node.data.matchAll(FORMULA)];
    if (!parts.length) continue;
    const fragment = document.createDocumentFragment();
    let at = 0;
    for (const match of parts) {
      fragment.append(node.data.slice(at, match.index));
      const span = document.createElement("span");
      const source = match[1] ?? match[2] ?? match[3] ?? match[4];
      katex.render(source, span, { throwOnError: false, displayMode: match[1] !== undefined || match[4] !== undefined, trust: false, maxSize: 20, maxExpand: 200 });
      fragment.append(span);
      at = match.index + match[0].length;
    }
    fragment.append(node.data.slice(at));
    node.replaceWith(fragment);
  }
}
