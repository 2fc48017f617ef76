// The page's words. `t(key, {n})` reads a signal, so every label changes in place when the language does.
// Only the table of the language in use is fetched; the other one comes when it is chosen.
import { signal } from "./vendor/signals.js";

const fetchTable = { en: () => import("./i18n/en.js"), zh: () => import("./i18n/zh.js") };
const tables = {};
export const language = signal(document.documentElement.lang.startsWith("zh") ? "zh" : "en");
tables[language.value] = (await fetchTable[language.value]()).default;

export async function setLanguage(value) {
  tables[value] ??= (await fetchTable[value]()).default;
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
