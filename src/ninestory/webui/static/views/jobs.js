// All long work, with progress, log, cancel and resume; kept current by the server's one event stream.
import { useEffect, useState } from "../vendor/hooks.js";
import { jobs as changed } from "../live.js";
import { html, Table, Progress, Dialog, complain, clock } from "../parts.js";
import { t } from "../i18n.js";
import { own } from "../api.js";

export default function Jobs() {
  const [jobs, setJobs] = useState([]);
  const [log, setLog] = useState(null);
  const refresh = () => own("GET", "/jobs?limit=100").then((r) => setJobs(r.data)).catch(complain);
  useEffect(() => { refresh(); }, []);
  const fresh = new Map(jobs.map((job) => [job.id, job]));
  for (const [id, job] of changed.value) if (!(fresh.get(id)?.updated_at > job.updated_at)) fresh.set(id, job);
  const rows = [...fresh.values()].sort((a, b) => b.created_at - a.created_at);
  const act = (job, name) => own("POST", `/jobs/${job.id}/${name}`).then(refresh).catch(complain);
  const show = (job) => own("GET", `/jobs/${job.id}/events?limit=200`).then((r) => setLog({ job, events: r.data })).catch(complain);
  return html`<div class="view"><h2>${t("jobs")}</h2><p class="quiet">${t("jobsHelp")}</p><${Table} caption=${t("jobs")} columns=${[t("kind"), t("state"), t("progress"), t("created"), ""]} rows=${rows.map((j) => [
    html`${j.kind}<br /><small class="quiet">${j.params?.model || j.id}</small>`, t(j.state), html`<${Progress} label=${t("progress")} done=${j.done} total=${j.total || (j.state === "succeeded" ? 1 : 0)} /><br /><small class="quiet">${j.error ? j.error.message : j.message}</small>`, clock(j.created_at),
    html`<div class="row">${["queued", "running"].includes(j.state) && html`<button type="button" onClick=${() => act(j, "cancel")}>${t("cancel")}</button>`}${["failed", "cancelled"].includes(j.state) && html`<button type="button" onClick=${() => act(j, "resume")}>${t("resume")}</button>`}<button type="button" onClick=${() => show(j)}>${t("log")}</button></div>`])} />
    ${log && html`<${Dialog} title=${`${t("log")}: ${log.job.kind}`} onClose=${() => setLog(null)}><pre tabindex="0">${log.events.map((e) => `${clock(e.time)}  ${e.kind}  ${JSON.stringify(e.data)}`).join("\n") || t("empty")}</pre><//>`}</div>`;
}
