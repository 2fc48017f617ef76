import assert from "node:assert/strict";
import { test } from "node:test";

import {
  contentOf, emptyConversation, filesOf, newMessage, pathOf, textOf, tipOf, versionsOf, wordsOf,
} from "../../../src/ninestory/webui/static/floors/chat/tree.js";
import { mergeMessages } from "../../../src/ninestory/webui/static/floors/chat/unsaved.js";

const m = (id, parent, role = "user") => ({ id, parent, role, content: id });
const branches = [m("q", null), m("a1", "q", "assistant"), m("a2", "q", "assistant"), m("f", "a1"), m("b", "f", "assistant")];

test("the path runs from the root to the leaf", () => {
  assert.deepEqual(pathOf({ messages: branches, leaf: "b" }).map((x) => x.id), ["q", "a1", "f", "b"]);
  assert.deepEqual(pathOf({ messages: branches, leaf: "a2" }).map((x) => x.id), ["q", "a2"]);
  assert.deepEqual(pathOf(emptyConversation()), []);
});

test("versions are siblings of one role, and a branch is entered at its tip", () => {
  const versions = versionsOf([...branches, m("tool", "q", "tool")]);
  assert.deepEqual(versions.get("a2"), ["a1", "a2"]);
  assert.deepEqual(versions.get("tool"), ["tool"]);
  assert.equal(tipOf(branches, "a1"), "b");
  assert.equal(tipOf(branches, "a2"), "a2");
});

test("files stand behind the words, in a fence that they cannot end", () => {
  const content = contentOf("look", [{ name: "a.md", text: "````\ncode\n````" }]);
  const message = newMessage("user", null, content);
  assert.equal(wordsOf(message), "look");
  assert.deepEqual(filesOf(message).map((file) => file.name), ["a.md"]);
  assert.equal(textOf(message), "look\n\na.md:\n`````\n````\ncode\n````\n`````");
  assert.equal(contentOf("only words", []), "only words");
});

test("what waited replaces the message of the same id and keeps the order", () => {
  const merged = mergeMessages(branches, [{ ...m("a1", "q", "assistant"), content: "whole" }, m("new", "b")]);
  assert.deepEqual(merged.map((x) => x.id), ["q", "a1", "a2", "f", "b", "new"]);
  assert.equal(merged[1].content, "whole");
});
