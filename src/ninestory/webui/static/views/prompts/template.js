// A prompt with variables: {{name}} is where a value goes in.
const VARIABLE = /\{\{\s*([\p{L}\p{N}_-]+)\s*\}\}/gu;

/** The names of the variables in these texts, each once, in order. */
export const variablesOf = (...texts) => [...new Set(texts.flatMap((s) => [...s.matchAll(VARIABLE)].map((m) => m[1])))];

/** A value is put in as it is: what looks like a variable in it stays text. */
export const fill = (text, values) => text.replace(VARIABLE, (whole, name) => values[name] ?? whole);

/** The messages of a request: the system message, if any, and the prompt. */
export const messagesOf = ({ system, text }, values) => [
  ...(system.trim() ? [{ role: "system", content: fill(system, values) }] : []),
  { role: "user", content: fill(text, values) },
];
