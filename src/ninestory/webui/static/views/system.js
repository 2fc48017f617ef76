// What the server runs on, its versions, its effective configuration and its latest requests (without texts).
import { useEffect, useState } from "../vendor/hooks.js";
import { html, Table, complain, bytes, clock } from "../parts.js";
import { t } from "../i18n.js";
import { own } from "../api.js";

export default function System() {
  const [system, setSystem] = useState(null);
  const [requests, setRequests] = useState([]);
  useEffect(() => { own("GET", "/system").then(setSystem).catch(complain); own("GET", "/system/requests?limit=50").then((r) => setRequests(r.data)).catch(complain); }, []);
  if (!system) return html`<div class="view"></div>`;
  const space = (free, total) => t("free", { free: bytes(free), total: bytes(total) });
  return html`<div class="view"><h2>${t("machine")}</h2><dl><dt>${t("processor")}</dt><dd>${system.processor.name}, ${t("freeCores", { free: system.processor.free_cores, total: system.processor.cores })}</dd><dt>${t("memory")}</dt><dd>${space(system.memory.available_bytes, system.memory.total_bytes)}</dd><dt>${t("disk")}</dt><dd><code>${system.home}</code>, ${space(system.disk.free_bytes, system.disk.total_bytes)}</dd>${system.gpus.map((g) => html`<dt>${g.name}</dt><dd>${space(g.free_bytes, g.total_bytes)}</dd>`)}</dl>
    <h2>${t("versions")}</h2><dl><dt>ninestory</dt><dd>${system.version}</dd><dt>Python</dt><dd>${system.python}</dd>${Object.entries(system.packages).map(([k, v]) => html`<dt>${k}</dt><dd>${v || "–"}</dd>`)}</dl>
    <h2>${t("configuration")}</h2><${Table} caption=${t("configuration")} columns=${[t("setting"), t("value"), t("from"), t("meaning")]} rows=${system.settings.map((s) => [html`<code>${s.key}</code>`, String(s.value), s.origin, s.doc])} />
    <h2>${t("requests")}</h2><${Table} caption=${t("requests")} columns=${[t("time"), t("request"), t("answer"), t("duration")]} rows=${requests.map((r) => [clock(r.time), `${r.method} ${r.path}`, r.status, `${r.seconds.toFixed(3)} s`])} /></div>`;
}
