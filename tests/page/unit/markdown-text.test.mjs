import assert from "node:assert/strict";
import { test } from "node:test";

import { LONGEST_LINE } from "../../../src/ninestory/webui/static/parts/format.js";
import { commandsOf, formulasIn, shorten } from "../../../src/ninestory/webui/static/parts/markdown-text.js";

test("a line that would stall the page is cut, its neighbours are not", () => {
  const text = `short\n${"x".repeat(LONGEST_LINE + 1)}\nend`;
  assert.equal(shorten(text), `short\n${"x".repeat(LONGEST_LINE)} …\nend`);
  assert.equal(shorten("short"), "short");
});

test("the commands of a console session are copied without prompt and output", () => {
  assert.equal(commandsOf("$ ninestory ls\nmodel  size\n$ ninestory ps"), "ninestory ls\nninestory ps");
  assert.equal(commandsOf("no prompt"), "no prompt");
});

test("formulas in all four forms, prices in none", () => {
  const found = formulasIn("$a$ $$b\nc$$ \\(d\\) \\[e\\]");
  assert.deepEqual(found.map(({ source, displayMode }) => [source, displayMode]),
    [["a", false], ["b\nc", true], ["d", false], ["e", true]]);
  assert.deepEqual(formulasIn("it costs $5"), []);
});
