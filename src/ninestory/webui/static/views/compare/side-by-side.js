// One prompt to up to four models or settings, streaming together.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Field, Icon, IconButton, complain } from "../../parts.js";
import { t } from "./i18n.js";
import { own } from "../../api.js";
import { Answer, Question, useAnswers } from "./answers.js";

const MOST = 4;
const blank = (model) => ({ model, preset: "", temperature: "", seed: "" });

/** What a column asks with: the settings of its preset, and over them the numbers that were written. */
function asked({ model, preset, temperature, seed }, presets) {
  const chosen = presets.find((p) => p.id === preset);
  const settings = { ...chosen?.settings, system: chosen?.system };
  for (const [name, value] of Object.entries({ temperature, seed })) if (value !== "") settings[name] = value;
  return { model, settings };
}

export function SideBySide({ models }) {
  const [columns, setColumns] = useState([]);
  const [presets, setPresets] = useState([]);
  const { answers, busy, ask, stop } = useAnswers();
  useEffect(() => { own("GET", "/presets?floor=chat").then((r) => setPresets(r.data)).catch(complain); }, []);
  useEffect(() => {
    if (!models.length) return;
    const [first, second] = models;
    setColumns([blank(first), { ...blank(second || first), temperature: second ? "" : "0" }]);
  }, [models]);
  const change = (i, values) => setColumns(columns.map((c, k) => (k === i ? { ...c, ...values } : c)));
  const remove = (i) => setColumns(columns.filter((_, k) => k !== i));
  const full = busy || !models.length || columns.length === MOST;
  return html`<div class="row"><p class="quiet grow">${t("compareHelp")}</p>
      <button type="button" disabled=${full} onClick=${() => setColumns([...columns, blank(models[0])])}>
        <${Icon} name="plus" /> ${t("addColumn")}</button></div>
    <div class="columns">${columns.map((column, i) => html`<${Column} key=${i} number=${i + 1} column=${column}
      models=${models} presets=${presets} answer=${answers[i]} busy=${busy} onChange=${(values) => change(i, values)}
      onRemove=${columns.length > 1 && (() => remove(i))} />`)}</div>
    <${Question} busy=${busy} ready=${columns.length > 0} onStop=${stop} 
      onAsk=${(text) => ask(text, columns.map((column) => asked(column, presets)))} />`;
}

function Column({ number, column, models, presets, answer, busy, onChange, onRemove }) {
  const id = (name) => `${name}-${number}`;
  const numberField = (name, step, most) => html`<${Field} id=${id(name)} label=${t(name)}>
    <input id=${id(name)} type="number" min="0" max=${most} step=${step} value=${column[name]}
      onInput=${(e) => onChange({ [name]: e.target.value })} /><//>`;
  return html`<section class="card" aria-label=${t("column", { n: number })}>
    <div class="row"><h3>${t("column", { n: number })}</h3><span class="grow"></span>
      ${onRemove && html`<${IconButton} icon="close" label=${t("removeColumn", { n: number })} disabled=${busy}
        onClick=${onRemove} />`}</div>
    <${Field} id=${id("model")} label=${t("model")}><select id=${id("model")} value=${column.model} translate=${false}
      onChange=${(e) => onChange({ model: e.target.value })}>
      ${models.map((m) => html`<option value=${m}>${m}</option>`)}</select><//>
    ${presets.length > 0 && html`<${Field} id=${id("preset")} label=${t("preset")}><select id=${id("preset")}
      value=${column.preset} onChange=${(e) => onChange({ preset: e.target.value })}>
      <option value="">${t("presetNone")}</option>
      ${presets.map((p) => html`<option value=${p.id} translate=${false}>${p.name}</option>`)}</select><//>`}
    <div class="row">${numberField("temperature", "0.1", "2")}${numberField("seed", "1")}</div>
    <${Answer} answer=${answer} /></section>`;
}
