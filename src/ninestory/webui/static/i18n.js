// The page's words. `t(key, {n})` reads a signal, so every label changes in place when the language does.
import { signal } from "./vendor/signals.js";
import en from "./i18n/en.js";
import zh from "./i18n/zh.js";

const tables = { en, zh };
export const language = signal(document.documentElement.lang.startsWith("zh") ? "zh" : "en");

export function setLanguage(value) {
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
