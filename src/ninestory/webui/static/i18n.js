// The page's words. `t(key, {n})` reads a signal, so every label changes in place when the language does.
// The shared table is fetched in the language in use; a floor's and a view's own words come with its folder (i18n.js).
import { signal } from "./vendor/signals.js";

const fetchTable = { en: () => import("./i18n/en.js"), zh: () => import("./i18n/zh.js") };
const tables = { en: {}, zh: {} };
const fetched = new Set();
export const language = signal(document.documentElement.lang.startsWith("zh") ? "zh" : "en");

/** Add the words of a folder: `{en: {key: text}, zh: {key: text}}`. */
export function addWords(words) {
  for (const [name, table] of Object.entries(words)) Object.assign(tables[name], table);
}

async function fetchWords(name) {
  if (fetched.has(name)) return;
  addWords({ [name]: (await fetchTable[name]()).default });
  fetched.add(name);
}
await fetchWords(language.value);

export async function setLanguage(value) {
  await fetchWords(value);
  language.value = value;
  localStorage.setItem("ninestory.language", value);
  document.documentElement.lang = value === "zh" ? "zh-CN" : "en";
}

export function t(key, values = {}) {
  const text = tables[language.value][key];
  if (text === undefined) throw new Error(`no text for ${key}`);
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

/** The words for a name that came from the server (a code, a kind), or "" when there are none. */
export const translated = (key) => tables[language.value][key] || "";

export const inLanguage = (text) => (text ? text[language.value] || text.en : "");
