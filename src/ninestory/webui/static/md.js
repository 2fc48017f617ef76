// Streaming Markdown without quadratic cost: only blocks whose source changed are rebuilt, and coloured when done.
import { marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";
import { copyText } from "./parts.js";
import { commandsOf, formulasIn, shorten } from "./parts/markdown-text.js";

const MOST_BLOCKS = 2000;
const MOST_COLOURED_CHARACTERS = 50000;
const OUR_IMAGE = /^(data:image\/|blob:|\/(?![/\\]))/; // a remote one would tell its host who reads this
const FORBIDDEN = { FORBID_TAGS: ["style", "form", "input", "iframe"], FORBID_ATTR: ["style"] };
marked.use({ gfm: true, breaks: false });

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "IMG" && !OUR_IMAGE.test(node.getAttribute("src") || "")) node.remove();
  if (node.tagName === "A") { node.rel = "noopener noreferrer"; node.target = "_blank"; }
});
const clean = (html) => DOMPurify.sanitize(html, FORBIDDEN);
const make = (name, properties) => Object.assign(document.createElement(name), properties);

let highlighter, mathematics;
const vendor = (name) => new URL(`./vendor/${name}`, import.meta.url);
const loadHighlighter = () => (highlighter ??= import("./vendor/highlight.js").then((m) => m.default));
const loadMathematics = () => (mathematics ??= new Promise((resolve, reject) => {
  const onload = () => resolve(window.katex);
  document.head.append(
    make("link", { rel: "stylesheet", href: vendor("katex.css") }),
    make("script", { src: vendor("katex.js"), onload, onerror: reject }),
  );
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

function enrich(block, labels) {
  for (const code of block.querySelectorAll("pre > code")) enrichCode(code, labels);
  for (const table of block.querySelectorAll("table")) {
    const frame = make("div", { className: "scroll", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  const hasFormulas = /\$[^$]+\$|\\\(|\\\[/.test(block.textContent) && !block.querySelector("pre");
  if (hasFormulas) loadMathematics().then((katex) => formulas(block, katex));
}

function enrichCode(code, labels) {
  const pre = code.parentElement;
  const language = (code.className.match(/language-([\w-]+)/) || [])[1];
  const frame = make("div", { className: "code" });
  const bar = make("div", { className: "code-bar" });
  const button = make("button", { type: "button", className: "copy", textContent: labels.copy });
  button.onclick = async () => {
    await copyText(language === "console" ? commandsOf(code.textContent) : code.textContent);
    button.textContent = labels.copied;
    setTimeout(() => (button.textContent = labels.copy), 1500);
  };
  pre.tabIndex = 0; // it scrolls sideways
  bar.append(make("span", { textContent: language || "", translate: false }), button);
  pre.replaceWith(frame);
  frame.append(bar, pre);
  if (!language || code.textContent.length > MOST_COLOURED_CHARACTERS) return;
  loadHighlighter().then((hljs) => {
    if (hljs.getLanguage(language)) code.innerHTML = hljs.highlight(code.textContent, { language }).value;
  });
}

function formulas(block, katex) {
  const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) if (!walker.currentNode.parentElement.closest("code")) nodes.push(walker.currentNode);
  for (const node of nodes) {
    const parts = formulasIn(node.data);
    if (!parts.length) continue;
    const fragment = document.createDocumentFragment();
    let at = 0;
    for (const { source, displayMode, start, end } of parts) {
      fragment.append(node.data.slice(at, start));
      const span = document.createElement("span");
      katex.render(source, span, { displayMode, throwOnError: false, trust: false, maxSize: 20, maxExpand: 200 });
      fragment.append(span);
      at = end;
    }
    fragment.append(node.data.slice(at));
    node.replaceWith(fragment);
  }
}
