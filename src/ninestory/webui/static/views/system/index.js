// What the server runs on, its versions, its effective configuration and its latest requests (without texts).
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Name, Table, bytes, clock, complain } from "../../parts.js";
import { t, translated, inLanguage } from "./i18n.js";
import { own } from "../../api.js";
import { connected, loaded, restarts } from "../../live.js";

export default function System() {
  const [system, setSystem] = useState(null);
  const [requests, setRequests] = useState([]);
  useEffect(() => {
    own("GET", "/system").then(setSystem).catch(complain);
    own("GET", "/system/requests?limit=50").then((r) => setRequests(r.data)).catch(complain);
  }, [restarts.value]);
  if (!system) return html`<div class="view"></div>`;
  const settings = system.settings.map((s) => [
    html`<code>${s.key}</code>`, html`<${Name}>${valueOf(s)}<//>`,
    translated(`origin_${s.origin}`) || html`<${Name}>${s.origin}<//>`, inLanguage(s.doc)]);
  const asked = requests.map((r) => [
    clock(r.time), html`<code>${r.method} ${r.path}</code>`, r.status, `${r.seconds.toFixed(3)} s`]);
  return html`<div class="view"><${Health} />
    <${Machine} system=${system} /><${Versions} system=${system} />
    <h2>${t("configuration")}</h2>
    <${Table} caption=${t("configuration")} columns=${[t("setting"), t("value"), t("from"), t("meaning")]}
      rows=${settings} />
    <h2>${t("requests")}</h2>
    <${Table} caption=${t("requests")} columns=${[t("time"), t("request"), t("answer"), t("duration")]}
      rows=${asked} /></div>`;
}

/** Whether the server answers, and every model's process as it is now. */
function Health() {
  const rows = (loaded.value || []).map((m) => [
    html`<${Name}>${m.model}<//>`, translated(`worker_${m.state}`) || m.state, bytes(m.rss_bytes), m.pid ?? "–"]);
  return html`<h2>${t("health")}</h2>
    <p class=${connected.value ? "good" : "bad"} role="status">
      ${connected.value ? t("serverAnswers") : t("offline")}</p>
    <${Table} caption=${t("health")} columns=${[t("model"), t("fileState"), t("memory"), t("process")]} rows=${rows}
      empty=${t("noneLoaded")} />`;
}

const valueOf = ({ value }) => (value === "" || value?.length === 0 ? "–" : String(value));

function Machine({ system: { processor, memory, disk, home, gpus } }) {
  const space = (free, total) => t("free", { free: bytes(free), total: bytes(total) });
  return html`<h2>${t("machine")}</h2><dl>
    <dt>${t("processor")}</dt><dd><${Name}>${processor.name}<//>
      ${" · "}${t("freeCores", { free: processor.free_cores, total: processor.cores })}</dd>
    <dt>${t("memory")}</dt><dd>${space(memory.available_bytes, memory.total_bytes)}</dd>
    <dt>${t("gateway")}</dt><dd>${bytes(memory.gateway_bytes)}</dd>
    <dt>${t("disk")}</dt><dd><code>${home}</code> · ${space(disk.free_bytes, disk.total_bytes)}</dd>
    ${gpus.map((g) => html`<dt translate=${false}>${g.name}</dt><dd>${space(g.free_bytes, g.total_bytes)}</dd>`)}</dl>`;
}

function Versions({ system: { version, python, packages } }) {
  const rows = [["ninestory", version], ["Python", python], ...Object.entries(packages)];
  return html`<h2>${t("versions")}</h2><dl class="versions" translate=${false}>
    ${rows.map(([name, number]) => html`<dt>${name}</dt><dd>${number || "–"}</dd>`)}</dl>`;
}
