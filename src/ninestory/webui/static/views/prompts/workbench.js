// Versions of a prompt × cases: every version answers every case, and one reads along the rows.
import { useEffect, useState } from "../../vendor/hooks.js";
import {
  html, Field, FilePicker, Icon, IconButton, Name, complain, download, readTexts, toast,
} from "../../parts.js";
import { t } from "./i18n.js";
import { own } from "../../api.js";
import { LONGEST_ANSWER, addCase, addVersion, bench, canAddVersion, change, letter, loadBench, remove, run } from "./bench.js";
import { parseCsv, toCsv } from "./csv.js";
import { variablesOf } from "./template.js";

export function Workbench() {
  const [models, setModels] = useState([]);
  const [cells, setCells] = useState({}); // "version case" → {state, text, seconds, passed}
  const [running, setRunning] = useState(null);
  const [isLoaded, setLoaded] = useState(false);
  useEffect(() => {
    loadBench().catch(complain).finally(() => setLoaded(true));
    own("GET", "/models").then((r) => setModels(r.data.filter((m) => m.task === "chat").map((m) => m.model)))
      .catch(complain);
  }, []);
  useEffect(() => () => running?.abort(), [running]);
  const { versions, cases } = bench.value;
  const names = variablesOf(...versions.flatMap((v) => [v.system, v.text]));
  const start = async () => {
    const controller = new AbortController();
    setRunning(controller);
    setCells({});
    const put = (v, c, cell) => setCells((all) => ({ ...all, [`${v} ${c}`]: cell }));
    await run(bench.value, models, controller.signal, put);
    setRunning(null);
  };
  const ready = models.length > 0 && versions.every((v) => v.text.trim());
  const edit = (action) => { setCells({}); action(); };
  if (!isLoaded) return null;
  return html`<p class="quiet">${t("workbenchHelp", { n: LONGEST_ANSWER })}</p>
    <div class="versions">${versions.map((version, i) => html`<${Version} key=${i} i=${i} version=${version}
      models=${models}
      onRemove=${versions.length > 1 && (() => edit(() => remove("versions", i)))} />`)}</div>
    <div class="row"><button type="button" disabled=${!canAddVersion() || running}
      onClick=${() => edit(() => addVersion(versions.at(-1)))}>
        <${Icon} name="plus" /> ${t("addVersion")}</button>
      <button type="button" disabled=${running} onClick=${addCase}><${Icon} name="plus" /> ${t("addCase")}</button>
      <${CsvButtons} names=${names} cells=${cells} /><span class="grow"></span>
      ${running ? html`<button type="button" class="main" onClick=${() => running.abort()}>${t("stop")}</button>`
        : html`<button type="button" class="main" disabled=${!ready} onClick=${start}>${t("run")}</button>`}</div>
    ${names.length === 0 && versions.some((v) => v.text) && html`<p class="quiet">${t("noVariables")}</p>`}
    <${Results} names=${names} cells=${cells} busy=${Boolean(running)}
      onRemove=${(i) => edit(() => remove("cases", i))} />
    <div class="hidden" role="status">${running ? t("answering") : ""}</div>`;
}

function Version({ i, version, models, onRemove }) {
  const id = (name) => `${name}-${letter(i)}`;
  const set = (name) => (e) => change("versions", i, { [name]: e.target.value });
  const title = t("versionName", { name: letter(i) });
  return html`<section class="card" aria-label=${title}><div class="row"><h3>${title}</h3><span class="grow"></span>
      ${onRemove && html`<${IconButton} icon="close" label=${t("removeVersion", { name: letter(i) })}
        onClick=${onRemove} />`}</div>
    <${Field} id=${id("text")} label=${t("promptText")}><textarea id=${id("text")} rows="5" value=${version.text}
      onInput=${set("text")}></textarea><//>
    <${Field} id=${id("system")} label=${t("systemPrompt")}><textarea id=${id("system")} rows="1"
      value=${version.system}
      onInput=${set("system")}></textarea><//>
    <div class="row"><${Field} id=${id("model")} label=${t("model")}><select id=${id("model")} translate=${false}
        value=${version.model || models[0]} onChange=${set("model")}>${models.map((m) => html`<option value=${m}>${m}
          </option>`)}</select><//>
      <${Field} id=${id("temperature")} label=${t("temperature")}><input id=${id("temperature")} type="number" min="0"
        max="2"
        step="0.1" value=${version.temperature} onInput=${set("temperature")} /><//></div></section>`;
}

function Results({ names, cells, busy, onRemove }) {
  const { versions, cases } = bench.value;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t("workbench")}><table class="bench">
    <caption class="hidden">${t("workbench")}</caption>
    <thead><tr><th scope="col">${t("case")}</th>
      ${versions.map((_, v) => html`<th scope="col">${t("versionName", { name: letter(v) })}<${Summary} v=${v}
        cells=${cells} /></th>`)}
      <th scope="col"><span class="hidden">${t("actions")}</span></th></tr></thead>
    <tbody>${cases.map((one, c) => html`<tr key=${c}><th scope="row"><${Case} c=${c} one=${one} names=${names} /></th>
      ${versions.map((_, v) => html`<td><${Cell} cell=${cells[`${v} ${c}`]} /></td>`)}
      <td>${cases.length > 1 && html`<${IconButton} icon="close" label=${t("removeCase", { n: c + 1 })} disabled=${busy}
        onClick=${() => onRemove(c)} />`}</td></tr>`)}</tbody></table></div>`;
}

function Case({ c, one, names }) {
  const set = (name) => (e) => change("cases", c, { values: { ...one.values, [name]: e.target.value } });
  return html`<span>${t("caseNumber", { n: c + 1 })}</span>
    ${names.map((name) => html`<${Field} key=${name} id=${`case-${c}-${name}`}
      label=${html`<${Name}>${name}<//>`}>
      <textarea id=${`case-${c}-${name}`} rows="2" value=${one.values[name] || ""} onInput=${set(name)}></textarea>
        <//>`)}
    <${Field} id=${`expected-${c}`} label=${t("mustContain")}><input id=${`expected-${c}`} value=${one.expected}
      onInput=${(e) => change("cases", c, { expected: e.target.value })} /><//>`;
}

function Cell({ cell }) {
  if (!cell) return html`<span class="quiet">${t("notRun")}</span>`;
  if (cell.state === "running") return html`<span class="quiet">${t("answering")}</span>`;
  if (cell.state === "failed") return html`<span class="bad">${cell.error.hint || cell.error.message}</span>`;
  const seconds = t("seconds", { s: cell.seconds.toFixed(1) });
  return html`<p class="plain" translate=${false}>${cell.text}</p><p class="quiet">${seconds}
    ${cell.passed !== null && html` · <span class=${cell.passed ? "good" : "bad"}>
      ${t(cell.passed ? "passed" : "notPassed")}</span>`}</p>`;
}

function Summary({ v, cells }) {
  const done = bench.value.cases.map((_, c) => cells[`${v} ${c}`]).filter((cell) => cell?.state === "done");
  if (!done.length) return null;
  const judged = done.filter((cell) => cell.passed !== null);
  const seconds = done.reduce((sum, cell) => sum + cell.seconds, 0) / done.length;
  return html`<br /><span class="quiet">${judged.length > 0 && `${t("score", {
    passed: judged.filter((cell) => cell.passed).length, n: judged.length })} · `}
      ${t("averageTime", { s: seconds.toFixed(1) })}</span>`;
}

function CsvButtons({ names, cells }) {
  const { versions, cases } = bench.value;
  const take = async (files) => {
    const [read] = await readTexts(files);
    if (!read) return;
    const [head, ...rows] = parseCsv(read.text);
    if (!names.every((name) => head.includes(name))) {
      toast(t("casesNeedColumns", { names: names.join(", ") }), { error: true });
      return;
    }
    const valueOf = (row, name) => row[head.indexOf(name)] || "";
    const caseOf = (row) => ({
      values: Object.fromEntries(names.map((name) => [name, valueOf(row, name)])), expected: valueOf(row, "expected"),
    });
    bench.value = { versions, cases: rows.map(caseOf) };
  };
  const save = () => {
    const head = [...names, "expected", ...versions.map((_, v) => letter(v))];
    const rows = cases.map((one, c) => [...names.map((name) => one.values[name] || ""), one.expected,
      ...versions.map((_, v) => cells[`${v} ${c}`]?.text || "")]);
    download("workbench.csv", toCsv([head, ...rows]));
  };
  return html`${names.length > 0 && html`<${FilePicker} label=${t("importCases")} accept=".csv,text/csv"
      onFiles=${take} />`}
    <button type="button" disabled=${!Object.keys(cells).length} onClick=${save}>${t("exportTable")}</button>`;
}
