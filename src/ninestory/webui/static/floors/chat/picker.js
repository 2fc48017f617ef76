// Which model answers: the installed ones with their load state, or a remote one by name.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Ask, bytes, complain } from "../../parts.js";
import { t, language } from "./i18n.js";
import { own } from "../../api.js";
import { loaded, restarts } from "../../live.js";
import { isRemote } from "./request.js";

const DEFAULT_CONTEXT = 4096; // runtime.context when it is 0

/** The chat models that can be asked, each with its row of GET /ps when it is loaded, and the one that is chosen. */
export function useModels(wanted) {
  const [installed, setInstalled] = useState([]);
  useEffect(() => {
    const tuned = own("GET", "/tuning/runs").then((r) => r.data.filter((run) => run.alias));
    Promise.all([own("GET", "/models"), tuned]).then(([all, runs]) => setInstalled([
      ...all.data.filter((m) => m.task === "chat"), ...runs.map((run) => ({ model: run.alias }))])).catch(complain);
  }, [restarts.value]);
  const remote = isRemote(wanted) ? [{ model: wanted }] : [];
  const rowOf = ({ model }) => loaded.value?.find((row) => row.model === model);
  const models = [...installed, ...remote].map((m) => ({ ...m, row: rowOf(m) }));
  const chosen = models.find((m) => m.model === wanted) || models[0];
  return { models, model: chosen?.model, row: chosen?.row };
}

/** Tokens of one conversation with this model, or 0 when nobody knows. */
export const contextTokens = (model, row) => (row?.info?.context || (isRemote(model) ? 0 : DEFAULT_CONTEXT));

export function ModelPicker({ models, model, row, onChange }) {
  const [need, setNeed] = useState("");
  const [naming, setNaming] = useState(false);
  useEffect(() => {
    setNeed("");
    if (!model || row || isRemote(model)) return;
    const show = (plan) => setNeed(t("needs", { size: bytes(plan.total_bytes) }));
    own("POST", "/plan", { model }).then(show).catch(() => {}); // a plan is a courtesy: the model may still run
  }, [model, Boolean(row), language.value]);
  let state = t("notLoaded") + (need && ` · ${need}`);
  if (row) state = `${t("loaded")} · ${bytes(row.rss_bytes)}`;
  if (isRemote(model)) state = t("remote");
  const name = (value) => { setNaming(false); onChange(isRemote(value) ? value : `openai:${value}`); };
  return html`<label class="picker"><span class="hidden">${t("model")}</span>
    <select aria-label=${t("model")} value=${model} translate=${false}
      onChange=${(e) => (e.target.value === "" ? setNaming(true) : onChange(e.target.value))}>
      ${!models.length && html`<option value="-">${t("noModels")}</option>`}
      ${models.map((m) => html`<option value=${m.model}>${m.model}</option>`)}
      <option value="">${t("remoteModel")}</option></select>
    ${models.length > 0 && html`<span class=${`quiet state ${row ? "is-on" : ""}`} title=${state}>${state}</span>`}
    </label>
    ${naming && html`<${Ask} label=${t("remoteName")} value="openai:" onClose=${() => setNaming(false)}
      onSave=${name} />`}`;
}
