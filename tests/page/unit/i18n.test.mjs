import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.document = { documentElement: { lang: "en" } };
globalThis.localStorage = { setItem() {} };
const { addWords, inLanguage, language, setLanguage, t, translated } = await import(
  "../../../src/ninestory/webui/static/i18n.js"
);

test("words that a folder adds are there in both languages", async () => {
  addWords({ en: { greeting: "Hello {name}" }, zh: { greeting: "你好，{name}" } });
  assert.equal(t("greeting", { name: "{name}" }), "Hello {name}");
  assert.equal(t("close"), "Close");
  await setLanguage("zh");
  assert.equal(t("greeting", { name: "九" }), "你好，九");
  assert.equal(t("close"), "关闭");
  assert.equal(document.documentElement.lang, "zh-CN");
  assert.equal(inLanguage({ en: "Chat", zh: "对话" }), "对话");
  await setLanguage("en");
  assert.equal(language.value, "en");
});

test("a blank without a value stays, a key without a text is an error", () => {
  assert.equal(t("greeting"), "Hello {name}");
  assert.throws(() => t("no such key"), /no text for no such key/);
  assert.equal(translated("no such key"), "");
});
