// What is installed, what is loaded, and the catalogue floor by floor.
import { useEffect, useState } from "../vendor/hooks.js";
import { html, Table, Field, Dialog, toast, complain, bytes, copyText } from "../parts.js";
import { t, inLanguage } from "../i18n.js";
import { own } from "../api.js";

export default function Models({ go }) {
  const [installed, setInstalled] = useState([]);
  const [loaded, setLoaded] = useState([]);
  const [catalogue, setCatalogue] = useState([]);
  const [floor, setFloor] = useState("");
  const [search, setSearch] = useState("");
  const [busy, setBusy] = useState("");
  const [removing, setRemoving] = useState(null);
  const refresh = () => Promise.all([own("GET", "/models"), own("GET", "/ps")]).then(([a, b]) => { setInstalled(a.data); setLoaded(b.data); }).catch(complain);
  useEffect(() => { refresh(); own("GET", "/catalogue").then((r) => setCatalogue(r.data)).catch(complain); }, []);
  const act = async (name, body, said) => { setBusy(body.model); try { const r = await own("POST", name, body); if (said) toast(said(r)); } catch (e) { complain(e); } setBusy(""); refresh(); };
  const rows = installed.map((m) => {
    const row = loaded.find((r) => r.model === m.model);
    return [m.model, t(`task_${m.task}`), bytes(m.bytes), m.source, m.licence || "", row ? `${t("loaded")}, ${bytes(row.rss_bytes)}` : "",
      html`<div class="row">${row ? html`<button type="button" disabled=${busy === m.model} onClick=${() => act("/unload", { model: m.model })}>${t("unload")}</button>` : html`<button type="button" disabled=${busy === m.model} onClick=${() => act("/load", { model: m.model })}>${t("load")}</button>`}<button type="button" disabled=${busy === m.model} onClick=${() => act("/models/verify", { model: m.model }, () => t("sound", { model: m.model }))}>${t("verify")}</button>${m.removable && html`<button type="button" onClick=${() => setRemoving(m)}>${t("remove")}</button>`}</div>`];
  });
  const remove = (m) => own("DELETE", `/models?model=${encodeURIComponent(m.model)}`).then(refresh).catch(complain).finally(() => setRemoving(null));
  const wanted = search.toLowerCase();
  const systems = catalogue.filter((s) => (!floor || s.floor === Number(floor)) && (!wanted || JSON.stringify([s.name, s.title, s.description]).toLowerCase().includes(wanted)));
  return html`<div class="view"><h2>${t("installed")}</h2><${Table} caption=${t("installed")} columns=${[t("model"), t("task"), t("size"), t("source"), t("licence"), t("memory"), ""]} rows=${rows} />
    <h2>${t("catalogue")}</h2><div class="row filters"><${Field} id="floor" label=${t("floors")}><select id="floor" value=${floor} onChange=${(e) => setFloor(e.target.value)}><option value="">${t("allFloors")}</option>${[1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => html`<option value=${n}>${n} · ${t(`floor${n}`)}</option>`)}</select><//>
      <${Field} id="search" label=${t("searchModels")}><input id="search" type="search" value=${search} onInput=${(e) => setSearch(e.target.value)} /><//></div>
    <div class="cards">${systems.map((s) => html`<${Card} key=${s.name} system=${s} go=${go} />`)}</div>
    ${removing && html`<${Dialog} title=${t("remove")} onClose=${() => setRemoving(null)}><p>${t("removeModel", { model: removing.model, size: bytes(removing.bytes) })}</p><div class="row"><button type="button" onClick=${() => setRemoving(null)}>${t("cancel")}</button><button type="button" class="main" onClick=${() => remove(removing)}>${t("remove")}</button></div><//>`}</div>`;
}

function Card({ system, go }) {
  const [whole, setWhole] = useState(null);
  const [plans, setPlans] = useState(new Map());
  const pull = (model) => own("POST", "/models/pull", { model }).then(() => toast(t("pulling", { model }), { action: { label: t("jobs"), run: () => go("jobs") } })).catch(complain);
  const open = (e) => { if (e.target.open && !whole) {
    own("GET", `/catalogue/${system.name}`).then(setWhole).catch(complain);
    own("POST", "/plan", { model: system.name }).then((p) => setPlans(new Map([p, ...p.alternatives].map((one) => [one.model, one])))).catch(() => {}); // not every system is one model
  } };
  const memory = (plan) => plan && html`${bytes(plan.total_bytes)}<br /><small class="quiet">${plan.fits ? t("fits") : t("fitsNot", { free: bytes(plan.available_bytes) })}</small>`;
  return html`<section class="card"><h3>${inLanguage(system.title)}</h3><p class="quiet">${system.floor} · ${system.name} · ${system.licence}</p><p>${inLanguage(system.description)}</p>
    <details onToggle=${open}><summary>${t("variants")}</summary>${whole && html`<${Table} caption=${t("variants")} columns=${[t("variants"), t("size"), t("memory"), ""]} rows=${(whole.variants || []).map((v) => [v.name, v.nbytes ? bytes(v.nbytes) : "", memory(plans.get(`${system.name}:${v.name}`)), html`<div class="row"><button type="button" onClick=${() => pull(`${system.name}:${v.name}`)}>${t("pull")}</button><button type="button" onClick=${() => copyText(`ninestory pull ${system.name}:${v.name}`).then(() => toast(t("copied")))}>${t("pullCommand")}</button></div>`])} />
      <h4>${t("pitfalls")}</h4><ul>${(whole.pitfalls || []).map((p) => html`<li>${inLanguage(p.problem)}<br /><span class="quiet">${inLanguage(p.cure)}</span></li>`)}</ul>`}</details></section>`;
}
