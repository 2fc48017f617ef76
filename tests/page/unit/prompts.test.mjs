import assert from "node:assert/strict";
import { test } from "node:test";

import { parseCsv, toCsv } from "../../../src/ninestory/webui/static/views/prompts/csv.js";
import { fill, messagesOf, variablesOf } from "../../../src/ninestory/webui/static/views/prompts/template.js";

test("CSV is read back as it was written", () => {
  const rows = [["text", "号"], ['a "quoted", cell', "two\nlines"], ["", "-"]];
  assert.deepEqual(parseCsv(toCsv(rows.slice(0, 2))), rows.slice(0, 2));
  assert.deepEqual(parseCsv('\uFEFFa,b\r\n"1,2",3\r\n'), [["a", "b"], ["1,2", "3"]]);
});

test("a cell that a spreadsheet would run is made text", () => {
  for (const cell of ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"]) assert.ok(toCsv([[cell]]).includes(`'${cell}`), cell);
});

test("variables are named once and filled once", () => {
  assert.deepEqual(variablesOf("{{ a }} {{名}} {{a}}", "{{b}} {not} {{ }}"), ["a", "名", "b"]);
  assert.equal(fill("{{a}} {{b}} {{c}}", { a: "{{b}}", b: "$&" }), "{{b}} $& {{c}}");
  assert.deepEqual(messagesOf({ system: " ", text: "{{a}}" }, { a: "x" }), [{ role: "user", content: "x" }]);
});
