// System message, sampling, tools and presets. What is set here is remembered in this browser.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Ask, Field, IconButton, complain, toast } from "../../parts.js";
import { t } from "./i18n.js";
import { own } from "../../api.js";
import { NUMBERS } from "./request.js";

const KEY = "ninestory.settings";

function remembered() {
  try { return JSON.parse(localStorage.getItem(KEY)) || {}; } catch { return {}; }
}
/** The model that the chat talked with last. */
export const rememberedModel = () => remembered().model;

/** The next conversation talks with `model`. */
export const rememberModel = (model) => localStorage.setItem(KEY, JSON.stringify({ ...remembered(), model }));

export function useSettings() {
  const [settings, setSettings] = useState(remembered);
  useEffect(() => { localStorage.setItem(KEY, JSON.stringify(settings)); }, [settings]);
  return [settings, setSettings];
}

/** What is wrong with the tools' JSON, or "". */
export function faultOfTools(text) {
  if (!text?.trim()) return "";
  try {
    const tools = JSON.parse(text);
    return Array.isArray(tools) && tools.every((tool) => tool?.function?.name) ? "" : t("toolsShape");
  } catch { return t("toolsShape"); }
}

export function SettingsPanel({ settings, setSettings, onClose }) {
  const set = (name, value) => setSettings({ ...settings, [name]: value });
  const fault = faultOfTools(settings.tools);
  return html`<aside class="panel" aria-label=${t("settings")}>
    <header><h2>${t("settings")}</h2><${IconButton} icon="close" label=${t("close")} onClick=${onClose} /></header>
    <${Presets} settings=${settings} setSettings=${setSettings} />
    <${Field} id="system" label=${t("systemPrompt")} help=${t("systemHelp")}><textarea id="system" rows="4"
      aria-describedby="system-help" value=${settings.system || ""} onInput=${(e) => set("system", e.target.value)}>
        </textarea><//>
    ${NUMBERS.map(([name, least, most, step]) => html`<${NumberField} key=${name} name=${name} least=${least}
      most=${most}
      step=${step} value=${settings[name]} onInput=${(value) => set(name, value)} />`)}
    <${Check} id="truncate" checked=${settings.truncate !== false} onChange=${(on) => set("truncate", on)} />
    <${Check} id="logprobs" checked=${Boolean(settings.logprobs)} onChange=${(on) => set("logprobs", on)} />
    <${Field} id="tools" label=${t("tools")} help=${t("toolsHelp")}><textarea id="tools" rows="3" class="code"
      spellcheck="false"
      aria-describedby="tools-help" aria-invalid=${Boolean(fault)} value=${settings.tools || ""}
      onInput=${(e) => set("tools", e.target.value)}></textarea>${fault && html`<p class="bad" role="alert">${fault}
        </p>`}<//>
  </aside>`;
}

function NumberField({ name, least, most, step, value = "", onInput }) {
  return html`<${Field} id=${name} label=${t(name)} help=${t(`${name}Help`)}><div class="with-reset">
    <input id=${name} type="number" min=${least} max=${most} step=${step} aria-describedby=${`${name}-help`}
      placeholder=${t("modelsOwn")} value=${value} onInput=${(e) => onInput(e.target.value)} />
    ${value !== "" && html`<${IconButton} icon="close" label=${t("resetOne", { name: t(name) })}
      onClick=${() => onInput("")} />`}
    </div><//>`;
}

function Check({ id, checked, onChange }) {
  return html`<div class="field"><label class="check" for=${id}><input id=${id} type="checkbox" checked=${checked}
    aria-describedby=${`${id}-help`} onChange=${(e) => onChange(e.target.checked)} /> ${t(id)}</label>
    <p class="help" id=${`${id}-help`}>${t(`${id}Help`)}</p></div>`;
}

function Presets({ settings, setSettings }) {
  const [presets, setPresets] = useState([]);
  const [chosen, choose] = useState("");
  const [naming, setNaming] = useState(false);
  const refresh = () => own("GET", "/presets?floor=chat").then((r) => setPresets(r.data)).catch(complain);
  useEffect(() => { refresh(); }, []);
  const { model, system = "", ...rest } = settings;
  const save = async (name) => {
    try {
      const kept = await own("POST", "/presets", { name, floor: "chat", system, settings: rest });
      setNaming(false);
      await refresh();
      choose(kept.id);
    } catch (e) { complain(e); }
  };
  const apply = (id) => {
    const preset = presets.find((p) => p.id === id);
    choose(id);
    if (preset) setSettings({ ...preset.settings, system: preset.system, model });
  };
  const remove = () => own("DELETE", `/presets/${chosen}`)
    .then(() => { choose(""); refresh(); toast(t("presetGone")); }).catch(complain);
  return html`${presets.length > 0 && html`<${Field} id="preset" label=${t("presets")}><div class="with-reset">
      <select id="preset" value=${chosen} onChange=${(e) => apply(e.target.value)}><option value="">${t("presetNone")}
        </option>
        ${presets.map((p) => html`<option value=${p.id} translate=${false}>${p.name}</option>`)}</select>
      ${chosen && html`<${IconButton} icon="close" label=${t("removePreset")} onClick=${remove} />`}</div><//>`}
    <div class="row"><button type="button" onClick=${() => { choose(""); setSettings({ model }); }}>${t("reset")}
      </button>
      <button type="button" onClick=${() => setNaming(true)}>${t("savePreset")}</button></div>
    ${naming && html`<${Ask} label=${t("presetName")} onClose=${() => setNaming(false)} onSave=${save} />`}`;
}
