// Every word of the page in both languages: the shared table, and those of each floor and view.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

const STATIC = new URL("../../../src/ninestory/webui/static/", import.meta.url);
const CHINESE = /[\u4e00-\u9fff]/;
const SAME = ["top_p", "top_k", "min_p", "try1", "try2", "try3"]; // names of parameters; questions to an English model

const read = (path) => readFileSync(new URL(path, STATIC), "utf8");
const load = async (language) => (await import(new URL(`i18n/${language}.js`, STATIC))).default;
const folders = ["floors", "views"].flatMap((kind) => readdirSync(new URL(kind, STATIC)).map((name) => `${kind}/${name}`));

/** The words that a folder's i18n.js adds. */
function wordsOf(folder) {
  if (!existsSync(new URL(`${folder}/i18n.js`, STATIC))) return { en: {}, zh: {} };
  const [, literal] = read(`${folder}/i18n.js`).match(/addWords\((\{[\s\S]*\})\);/);
  return Function(`return ${literal}`)();
}
const shared = { en: await load("en"), zh: await load("zh") };
const tables = [["i18n", shared], ...folders.map((folder) => [folder, wordsOf(folder)])];

for (const [where, { en, zh }] of tables) {
  test(`${where}: both languages have the same words and the same blanks`, () => {
    assert.deepEqual(Object.keys(en).sort(), Object.keys(zh).sort());
    const blanks = (text) => (text.match(/\{\w+\}/g) || []).sort();
    for (const key of Object.keys(en)) assert.deepEqual([...new Set(blanks(en[key]))], [...new Set(blanks(zh[key]))], key);
  });

  test(`${where}: the Chinese words are Chinese and the English ones English`, () => {
    for (const key of Object.keys(en)) {
      assert.ok(!CHINESE.test(en[key]), key);
      if (en[key] === zh[key]) assert.ok(SAME.includes(key), key);
      else assert.ok(CHINESE.test(zh[key]) || key === "seconds", key);
    }
  });
}

test("no word stands in two tables", () => {
  const all = tables.flatMap(([, { en }]) => Object.keys(en));
  assert.ok(all.length > 300);
  assert.deepEqual(all.filter((key, i) => all.indexOf(key) !== i), []);
});

for (const folder of folders) {
  test(`${folder}: its words are there whenever it is shown`, () => {
    const known = { ...shared.en, ...wordsOf(folder).en };
    for (const file of readdirSync(new URL(folder, STATIC)).filter((name) => name.endsWith(".js"))) {
      for (const [, key] of read(`${folder}/${file}`).matchAll(/\bt\("(\w+)"/g)) assert.ok(key in known, `${file}: ${key}`);
    }
  });
}
