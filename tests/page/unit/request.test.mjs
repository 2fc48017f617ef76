import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.location = { origin: "http://127.0.0.1:8080" };
const { asCurl, asPython, requestBody } = await import("../../../src/ninestory/webui/static/floors/chat/request.js");
const path = [{ role: "user", content: "It's true", data: {} }, { role: "tool", content: "5", data: { tool_call_id: "c" } }];

test("settings that are set become fields, those that are empty do not", () => {
  const body = requestBody(path, { system: "Be short", temperature: 0, top_p: "", seed: "7" }, "m");
  assert.deepEqual(body.messages.map((one) => one.role), ["system", "user", "tool"]);
  assert.equal(body.messages[2].tool_call_id, "c");
  assert.equal(body.temperature, 0);
  assert.equal(body.seed, 7);
  assert.ok(!("top_p" in body));
  assert.equal(body.truncation, "auto");
});

test("a remote model is not asked for what only this server knows", () => {
  assert.ok(!("truncation" in requestBody(path, {}, "openai:gpt")));
});

test("tools that are no JSON are a SyntaxError", () => {
  assert.throws(() => requestBody(path, { tools: "[" }, "m"), SyntaxError);
});

test("the copied commands quote the words and name the key by its variable", () => {
  const body = requestBody(path, { top_k: 5 }, "m");
  assert.ok(asCurl(body, true).includes("It'\\''s true"));
  assert.ok(asCurl(body, true).includes("$NINESTORY_API_KEY"));
  const python = asPython(body, false);
  assert.ok(python.includes('extra_body={"top_k": 5, "truncation": "auto"}') && python.includes('api_key="none"'));
});
