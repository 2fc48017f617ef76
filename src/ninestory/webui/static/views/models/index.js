// What is installed, what is loaded, and the catalogue floor by floor.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Confirm, Devices, Empty, Field, Name, Table, bytes, complain, copyText, toast, usesCards } from "../../parts.js";
import { t, translated, inLanguage } from "./i18n.js";
import { own } from "../../api.js";
import { FLOORS, titleOfFloor } from "../../views.js";
import { loaded } from "../../live.js";
import { JobState, StartAndStop, useJobs } from "../jobs/index.js";

const SHOWN_SECONDS = 24 * 3600; // a download that broke off stands beside the models for a day
const SHOWN = ["all", "here", "fits"];

export default function Models({ go }) {
  const [installed, setInstalled] = useState([]);
  const refresh = () => own("GET", "/models").then((r) => setInstalled(r.data)).catch(complain);
  useEffect(() => { refresh(); }, []);
  return html`<div class="view"><${Installed} installed=${installed} refresh=${refresh} />
    <${Downloads} onDone=${refresh} /><${Catalogue} installed=${installed} go=${go} /></div>`;
}

function Installed({ installed, refresh }) {
  const [busy, setBusy] = useState("");
  const [removing, setRemoving] = useState(null);
  const act = async (path, model, said = "") => {
    setBusy(model);
    try { await own("POST", path, { model }); if (said) toast(said); } catch (e) { complain(e); }
    setBusy("");
  };
  const remove = ({ model }) => own("DELETE", `/models?model=${encodeURIComponent(model)}`)
    .then(refresh).catch(complain).finally(() => setRemoving(null));
  const running = new Map((loaded.value || []).map((row) => [row.model, row]));
  const rows = installed.map((m) => installedRow(m, running.get(m.model), busy === m.model, {
    onAct: act, onRemove: () => setRemoving(m),
  }));
  const columns = [t("model"), t("task"), t("size"), t("modelSource"), t("licence"), t("memory"), ""];
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
    running ? `${translated(`worker_${running.state}`) || running.state} · ${bytes(running.rss_bytes)}` : "–",
    html`<div class="row">
      ${running && button(t("unload"), () => onAct("/unload", m.model))}
      ${!running && button(t("load"), () => onAct("/load", m.model))}
      ${button(t("verify"), () => onAct("/models/verify", m.model, t("sound", { model: m.model })))}
      ${m.removable && button(t("remove"), onRemove)}</div>`,
  ];
}

/** Downloads that run, and those that broke off and can go on. */
function Downloads({ onDone }) {
  const { newest, act } = useJobs();
  const pulls = [...newest.values()].filter((job) => job.kind === "pull").sort((a, b) => b.created_at - a.created_at);
  const last = pulls.filter((job, i) => i === pulls.findIndex((other) => other.params.model === job.params.model));
  const done = last.filter((job) => job.state === "succeeded").length;
  useEffect(() => { if (done) onDone(); }, [done]);
  const isShown = (job) => job.state !== "succeeded" && job.updated_at > Date.now() / 1000 - SHOWN_SECONDS;
  const rows = last.filter(isShown).map((job) => [
    html`<${Name}>${job.params.model}<//>`, html`<${JobState} job=${job} />`,
    html`<div class="row"><${StartAndStop} job=${job} act=${act} /></div>`]);
  return rows.length > 0 && html`<h2>${t("downloads")}</h2>
    <${Table} caption=${t("downloads")} columns=${[t("model"), t("progress"), ""]} rows=${rows} />`;
}

/** The names of the systems of which some variant fits here, or null: asked once, when it is wanted. */
function useFitting(systems, isWanted) {
  const [fitting, setFitting] = useState(null);
  useEffect(() => {
    if (!isWanted || fitting || !systems.length) return;
    const sized = systems.filter((s) => s.variants?.some((v) => v.nbytes));
    Promise.all(sized.map((s) => own("POST", "/plan", { model: s.name }).then((p) => p.largest_that_fits && s.name, () => null)))
      .then((names) => setFitting(new Set(names))).catch(complain);
  }, [isWanted, systems]);
  return fitting;
}

function Catalogue({ installed, go }) {
  const [systems, setSystems] = useState([]);
  const [floor, setFloor] = useState("");
  const [search, setSearch] = useState("");
  const [show, setShow] = useState("all");
  const fitting = useFitting(systems, show === "fits");
  useEffect(() => { own("GET", "/catalogue").then((r) => setSystems(r.data)).catch(complain); }, []);
  const wanted = search.toLowerCase();
  const here = new Set(installed.map((m) => m.model.split(":")[0]));
  const isShown = { all: () => true, here: (s) => here.has(s.name), fits: (s) => fitting?.has(s.name) }[show];
  const found = systems.filter((s) => (!floor || s.floor === Number(floor)) && isShown(s)
    && JSON.stringify([s.name, s.title, s.description]).toLowerCase().includes(wanted));
  return html`<h2>${t("catalogue")}</h2><div class="row filters">
      <${Field} id="floor" label=${t("floors")}><select id="floor" value=${floor}
        onChange=${(e) => setFloor(e.target.value)}>
        <option value="">${t("allFloors")}</option>
        ${FLOORS.map((floor) => html`<option value=${floor.number}>${floor.number} · ${inLanguage(floor.title)}</option>`)}</select><//>
      <${Field} id="show" label=${t("show")}><select id="show" value=${show} onChange=${(e) => setShow(e.target.value)}>
        ${SHOWN.map((name) => html`<option value=${name}>${t(`show_${name}`)}</option>`)}</select><//>
      <${Field} id="search" label=${t("searchModels")}>
        <input id="search" type="search" value=${search} onInput=${(e) => setSearch(e.target.value)} /><//></div>
    ${systems.length > 0 && (show !== "fits" || fitting) && found.length === 0 && html`<${Empty} text=${t("nothingFound")} />`}
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
    <p class="quiet">${titleOfFloor(system.floor)} · <${Name}>${system.name} · ${system.licence}<//></p>
    <p>${inLanguage(system.description)}</p>
    <details onToggle=${open}><summary>${t("variants")}</summary>${whole && html`
      <${Table} caption=${t("variants")} columns=${[t("variant"), t("size"), t("memory"), ""]} rows=${rows} />
      <h4>${t("pitfalls")}</h4><ul>${(whole.pitfalls || []).map((p) => html`<li>${inLanguage(p.problem)}<br />
        <span class="quiet">${inLanguage(p.cure)}</span></li>`)}</ul>`}</details></section>`;
}

function verdict(plan) {
  if (usesCards(plan)) return html`<${Devices} plan=${plan} />`;
  return plan.fits ? t("fits") : t("fitsNot", { free: bytes(plan.available_bytes) });
}

function variantRow(system, variant, plans, pull) {
  const model = `${system.name}:${variant.name}`;
  const plan = plans.get(model);
  return [
    html`<${Name}>${variant.name}<//>`,
    variant.nbytes ? bytes(variant.nbytes) : "–",
    plan ? html`${bytes(plan.total_bytes)}<br /><small class="quiet">${verdict(plan)}</small>` : "–",
    (variant.hf || variant.ms) // what no hub publishes cannot be pulled
      && html`<div class="row"><button type="button" onClick=${() => pull(model)}>${t("pull")}</button>
        <button type="button" onClick=${() => copyText(`ninestory pull ${model}`).then(() => toast(t("copied")))}>
          ${t("pullCommand")}</button></div>`,
  ];
}
