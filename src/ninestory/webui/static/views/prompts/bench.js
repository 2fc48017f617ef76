// What stands on the workbench: versions of a prompt and cases, kept on the server; and how they are run.
import { signal } from "../../vendor/signals.js";
import { complain, toast } from "../../parts.js";
import { t } from "./i18n.js";
import { call, own } from "../../api.js";
import { messagesOf } from "./template.js";

const FLOOR = "workbench"; // the bench is kept as the one preset of this floor
const STORE_AFTER_MS = 400;
const AT_ONCE = 2; // requests that wait for one another's words
export const LONGEST_ANSWER = 512; // tokens
const MOST_VERSIONS = 6;

const newVersion = (more = {}) => ({ model: "", system: "", text: "", temperature: "0", ...more });
const newCase = () => ({ values: {}, expected: "" });
const empty = () => ({ versions: [newVersion()], cases: [newCase()] });

/** {versions: [{model, system, text, temperature}], cases: [{values, expected}]} */
export const bench = signal(empty());
let kept = null; // {id, revision} of the server's row
let stored = bench.value; // what stands on the server
let timer = 0;
let storing = Promise.resolve();

async function fetchBench() {
  const [row] = (await own("GET", `/presets?floor=${FLOOR}`)).data;
  kept = row ? { id: row.id, revision: row.revision } : null;
  const isWhole = row?.settings.versions?.length > 0 && row.settings.cases?.length > 0;
  stored = isWhole ? { versions: row.settings.versions, cases: row.settings.cases } : empty();
  bench.value = stored;
}

/** Bring what stands on the server, once what was changed here is there. */
export function loadBench() {
  clearTimeout(timer);
  storing = storing.catch(() => {}).then(store).then(fetchBench);
  return storing;
}

/** Store the bench; when another tab was first, its bench is shown, and that is said. */
async function store() {
  const value = bench.value;
  if (value === stored) return;
  try {
    const row = kept ? await own("PATCH", `/presets/${kept.id}`, { revision: kept.revision, settings: value })
      : await own("POST", "/presets", { name: FLOOR, floor: FLOOR, settings: value });
    kept = { id: row.id, revision: row.revision };
    stored = value;
  } catch (e) {
    if (e.status !== 409 && e.status !== 404) { complain(e); return; }
    await fetchBench();
    toast(t("benchChanged"), { error: true });
  }
}
bench.subscribe((value) => {
  clearTimeout(timer);
  if (value !== stored) timer = setTimeout(() => { storing = storing.then(store, store); }, STORE_AFTER_MS);
});

export const letter = (i) => "ABCDEF"[i];
export const canAddVersion = () => bench.value.versions.length < MOST_VERSIONS;

/** Put a prompt of the library on the bench, in the place of a blank version if there is one. */
export function addVersion({ system = "", text = "", values = {} } = {}) {
  const { versions, cases } = bench.value;
  const blank = versions.findIndex((v) => !v.text.trim());
  const version = newVersion({ system, text, model: versions[0]?.model || "" });
  const next = blank >= 0 ? versions.with(blank, version) : [...versions, version].slice(0, MOST_VERSIONS);
  const isUntouched = cases.length === 1 && !Object.keys(cases[0].values).length;
  bench.value = { versions: next, cases: isUntouched ? [{ values, expected: "" }] : cases };
}
export const addCase = () => { bench.value = { ...bench.value, cases: [...bench.value.cases, newCase()] }; };

export function change(list, i, changes) {
  bench.value = { ...bench.value, [list]: bench.value[list].with(i, { ...bench.value[list][i], ...changes }) };
}
export function remove(list, i) {
  bench.value = { ...bench.value, [list]: bench.value[list].toSpliced(i, 1) };
}

/** Ask every version about every case through the public API; `onCell(version, case, cell)` as each ends. */
export async function run({ versions, cases }, models, signal, onCell) {
  const cells = versions.flatMap((version, v) => cases.map((one, c) => ({ version, one, v, c })));
  const next = cells[Symbol.iterator]();
  const worker = async () => {
    for (const { version, one, v, c } of next) {
      if (signal.aborted) return;
      onCell(v, c, { state: "running" });
      onCell(v, c, await answer(version, one, models, signal));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

async function answer(version, { values, expected }, models, signal) {
  const body = { model: version.model || models[0], messages: messagesOf(version, values), max_tokens: LONGEST_ANSWER };
  if (version.temperature !== "") body.temperature = Number(version.temperature);
  const began = performance.now();
  try {
    const reply = await call("POST", "/v1/chat/completions", body, signal);
    const text = reply.choices[0].message.content || "";
    const passed = expected ? text.toLowerCase().includes(expected.toLowerCase()) : null;
    return { state: "done", text, passed, seconds: (performance.now() - began) / 1000 };
  } catch (error) {
    return error.name === "AbortError" ? null : { state: "failed", error };
  }
}
