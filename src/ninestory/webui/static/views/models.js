// What is installed, what is loaded, and the catalogue floor by floor.
import { useEffect, useState } from "../vendor/hooks.js";
import { html, Confirm, Field, Name, Table, bytes, complain, copyText, toast } from "../parts.js";
import { t, translated, inLanguage } from "../i18n.js";
import { own } from "../api.js";

const ALL_FLOORS = [1, 2, 3, 4, 5, 6, 7, 8, 9];

export default function Models({ go }) {
  return html`<div class="view"><${Installed} /><${Catalogue} go=${go} /></div>`;
}

function Installed() {
  const [installed, setInstalled] = useState([]);
  const [loaded, setLoaded] = useState([]);
  const [busy, setBusy] = useState("");
  const [removing, setRemoving] = useState(null);
  const refresh = () => Promise.all([own("GET", "/models"), own("GET", "/ps")])
    .then(([all, running]) => { setInstalled(all.data); setLoaded(running.data); }).catch(complain);
  useEffect(() => { refresh(); }, []);
  const act = async (path, model, said = "") => {
    setBusy(model);
    try { await own("POST", path, { model }); if (said) toast(said); } catch (e) { complain(e); }
    setBusy("");
    refresh();
  };
  const remove = ({ model }) => own("DELETE", `/models?model=${encodeURIComponent(model)}`)
    .then(refresh).catch(complain).finally(() => setRemoving(null));
  const rows = installed.map((m) => installedRow(m, loaded.find((r) => r.model === m.model), busy === m.model, {
    onAct: act, onRemove: () => setRemoving(m),
  }));
  const columns = [t("model"), t("task"), t("size"), t("source"), t("licence"), t("memory"), ""];
  return html`<h2>${t("installed")}</h2>
    <${Table} caption=${t("installed")} columns=${columns} rows=${rows} empty=${t("noneInstalled")} />
    ${removing && html`<${Confirm} title=${t("remove")} action=${t("remove")} onClose=${() => setRemoving(null)}
      text=${t("removeModel", { model: removing.model, size: bytes(removing.bytes) })}
        onConfirm=${() => remove(removing)} />`}`;
}

function installedRow(m, running, busy, { onAct, onRemove }) {
  const button = (words, onClick) => html`<button type="button" disabled=${busy} onClick=${onClick}>${words}</button>`;
  return [
    html`<${Name}>${m.model}<//>`,
    translated(`task_${m.task}`) || m.task,
    bytes(m.bytes),
    translated(`source_${m.source}`) || m.source,
    html`<${Name}>${m.licence || "–"}<//>`,
    running ? `${t("loaded")} · ${bytes(running.rss_bytes)}` : "–",
    html`<div class="row">
      ${running && button(t("unload"), () => onAct("/unload", m.model))}
      ${!running && button(t("load"), () => onAct("/load", m.model))}
      ${button(t("verify"), () => onAct("/models/verify", m.model, t("sound", { model: m.model })))}
      ${m.removable && button(t("remove"), onRemove)}</div>`,
  ];
}

function Catalogue({ go }) {
  const [systems, setSystems] = useState([]);
  const [floor, setFloor] = useState("");
  const [search, setSearch] = useState("");
  useEffect(() => { own("GET", "/catalogue").then((r) => setSystems(r.data)).catch(complain); }, []);
  const wanted = search.toLowerCase();
  const found = systems.filter((s) => (!floor || s.floor === Number(floor))
    && JSON.stringify([s.name, s.title, s.description]).toLowerCase().includes(wanted));
  return html`<h2>${t("catalogue")}</h2><div class="row filters">
      <${Field} id="floor" label=${t("floors")}><select id="floor" value=${floor}
        onChange=${(e) => setFloor(e.target.value)}>
        <option value="">${t("allFloors")}</option>
        ${ALL_FLOORS.map((n) => html`<option value=${n}>${n} · ${t(`floor${n}`)}</option>`)}</select><//>
      <${Field} id="search" label=${t("searchModels")}>
        <input id="search" type="search" value=${search} onInput=${(e) => setSearch(e.target.value)} /><//></div>
    <div class="cards">${found.map((s) => html`<${Card} key=${s.name} system=${s} go=${go} />`)}</div>`;
}

function Card({ system, go }) {
  const [whole, setWhole] = useState(null);
  const [plans, setPlans] = useState(new Map());
  const show = (one) => {
    setWhole(one);
    if (!one.variants?.some((v) => v.nbytes)) return; // no model of its own, or one of unknown size
    own("POST", "/plan", { model: system.name })
      .then((p) => setPlans(new Map([p, ...p.alternatives].map((plan) => [plan.model, plan])))).catch(complain);
  };
  const open = (e) => {
    if (!e.target.open || whole) return;
    own("GET", `/catalogue/${system.name}`).then(show).catch(complain);
  };
  const pull = (model) => own("POST", "/models/pull", { model })
    .then(() => toast(t("pulling", { model }), { action: { label: t("jobs"), run: () => go("jobs") } }))
      .catch(complain);
  const rows = (whole?.variants || []).map((v) => variantRow(system, v, plans, pull));
  return html`<section class="card"><h3 translate=${system.title.en !== system.title.zh}>${inLanguage(system.title)}
    </h3>
    <p class="quiet">${t(`floor${system.floor}`)} · <${Name}>${system.name} · ${system.licence}<//></p>
    <p>${inLanguage(system.description)}</p>
    <details onToggle=${open}><summary>${t("variants")}</summary>${whole && html`
      <${Table} caption=${t("variants")} columns=${[t("variant"), t("size"), t("memory"), ""]} rows=${rows} />
      <h4>${t("pitfalls")}</h4><ul>${(whole.pitfalls || []).map((p) => html`<li>${inLanguage(p.problem)}<br />
        <span class="quiet">${inLanguage(p.cure)}</span></li>`)}</ul>`}</details></section>`;
}

function variantRow(system, variant, plans, pull) {
  const model = `${system.name}:${variant.name}`;
  const plan = plans.get(model);
  return [
    html`<${Name}>${variant.name}<//>`,
    variant.nbytes ? bytes(variant.nbytes) : "–",
    plan ? html`${bytes(plan.total_bytes)}<br /><small class="quiet">${plan.fits ? t("fits")
      : t("fitsNot", { free: bytes(plan.available_bytes) })}</small>` : "–",
    html`<div class="row"><button type="button" onClick=${() => pull(model)}>${t("pull")}</button>
      <button type="button" onClick=${() => copyText(`ninestory pull ${model}`).then(() => toast(t("copied")))}>
        ${t("pullCommand")}</button></div>`,
  ];
}
