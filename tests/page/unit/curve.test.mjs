import assert from "node:assert/strict";
import { test } from "node:test";

const { thinned, ticks } = await import("../../../src/ninestory/webui/static/parts/curve.js");

test("a long curve keeps its extremes, its order and its list", () => {
  const points = Array.from({ length: 20000 }, (_, i) => [i, Math.sin(i / 300)]);
  points[7777] = [7777, 99];
  points[123] = [123, -99];
  const kept = thinned(points);
  assert.ok(kept.length <= 500, String(kept.length));
  assert.ok(kept.some(([, y]) => y === 99) && kept.some(([, y]) => y === -99));
  assert.deepEqual(kept, [...kept].sort((a, b) => a[0] - b[0]));
  assert.equal(points.length, 20000);
  assert.equal(thinned(kept), kept);
});

test("the marks of an axis are round numbers within it", () => {
  assert.deepEqual(ticks(0, 10, 5), [0, 2, 4, 6, 8, 10]);
  for (const mark of ticks(0.13, 0.97, 3)) assert.ok(mark >= 0.13 && mark <= 0.97);
});
