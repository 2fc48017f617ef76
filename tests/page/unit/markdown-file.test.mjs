import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.document = { documentElement: { lang: "en" } };
const { fromMarkdown, toMarkdown } = await import("../../../src/ninestory/webui/static/floors/chat/markdown-file.js");

test("a conversation comes back from its Markdown, its marks and headings included", () => {
  const texts = ["# not a title\n<!-- message: user -->\n\\## twice", "two\n\n\n\nlines"];
  const messages = texts.map((content, i) =>
    ({ id: `${i}`, parent: i ? `${i - 1}` : null, role: i ? "assistant" : "user", content }));
  const text = toMarkdown({ title: "One\nline", messages, leaf: "1" });
  const back = fromMarkdown(text.replaceAll("\n", "\r\n"), "file.md");
  assert.equal(back.title, "One line");
  assert.deepEqual(back.messages.map(({ role, content }) => [role, content]), [["user", texts[0]], ["assistant", texts[1]]]);
  assert.equal(back.messages[1].parent, back.messages[0].id);
  assert.equal(back.leaf, back.messages[1].id);
});

test("a file without messages is no conversation", () => assert.equal(fromMarkdown("# A title\n\ntext", "a.md"), null));
