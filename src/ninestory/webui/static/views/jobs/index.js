// All long work, with progress, cancel and resume; kept current by the server's one event stream.
import { useEffect, useState } from "../../vendor/hooks.js";
import { forgetJob, jobs as changed } from "../../live.js";
import { html, Name, Progress, Table, clock, complain } from "../../parts.js";
import { t, translated, language } from "./i18n.js";
import { own } from "../../api.js";
import { link } from "../../router.js";
import { titleOfJobKind } from "../../views.js";
import { JobDetail } from "./detail.js";

const UNFINISHED = ["queued", "running", "waiting"];

/** All jobs by id, as they stand now, and how to `act` on one: "cancel", "resume", "dismiss". */
export function useJobs() {
  const [jobs, setJobs] = useState([]);
  const refresh = () => own("GET", "/jobs?limit=100").then((r) => setJobs(r.data)).catch(complain);
  useEffect(() => { refresh(); }, []);
  const newest = new Map(jobs.map((job) => [job.id, job]));
  for (const [id, job] of changed.value) if (!(newest.get(id)?.updated_at > job.updated_at)) newest.set(id, job);
  const act = (job, name) => (name === "dismiss"
    ? own("DELETE", `/jobs/${job.id}`).then(() => forgetJob(job.id))
    : own("POST", `/jobs/${job.id}/${name}`)).then(refresh).catch(complain);
  return { newest, act };
}

const button = (words, onClick) => html`<button type="button" onClick=${onClick}>${words}</button>`;

export const StartAndStop = ({ job, act }) => html`
  ${UNFINISHED.includes(job.state) && button(t("cancel"), () => act(job, "cancel"))}
  ${job.resumable && button(t("resume"), () => act(job, "resume"))}
  ${["failed", "cancelled"].includes(job.state) && button(t("dismiss"), () => act(job, "dismiss"))}`;

export default function Jobs({ query, go }) {
  const { newest, act } = useJobs();
  const actions = (job) => html`<div class="row"><${StartAndStop} job=${job} act=${act} />
    ${!query.id && button(t("log"), () => go(`jobs?id=${job.id}`))}</div>`;
  const shown = newest.get(query.id);
  if (query.id) {
    return html`<div class="view"><p><a ...${link("jobs")}>${t("allJobs")}</a></p>${shown && html`
      <h2>${kindOf(shown)} <span class="quiet" translate=${false}>${subjectOf(shown)}</span></h2>
      <${JobState} job=${shown} />${actions(shown)}<${JobDetail} key=${shown.id} job=${shown} />`}</div>`;
  }
  const rows = [...newest.values()].sort((a, b) => b.created_at - a.created_at).map((job) => [
    html`${kindOf(job)}<br /><small class="quiet" translate=${false}>${subjectOf(job)}</small>`,
    html`<${JobState} job=${job} />`, clock(job.created_at), actions(job)]);
  return html`<div class="view"><h2>${t("jobs")}</h2><p class="quiet">${t("jobsHelp")}</p>
    <${Table} caption=${t("jobs")} columns=${[t("kind"), t("progress"), t("created"), ""]} rows=${rows}
      empty=${t("noJobs")} /></div>`;
}

const kindOf = (job) => translated(`kind_${job.kind}`) || titleOfJobKind(job.kind) || html`<${Name}>${job.kind}<//>`;
const subjectOf = ({ params, id }) => params?.model || params?.recipe?.model?.name || params?.name
  || params?.knowledge_base || id;

/** How far it is, or why it failed and what to do: the hint is in both languages. */
export function JobState({ job }) {
  const hint = job.error && (language.value === "zh" ? job.error.hint_zh : job.error.hint);
  const percent = job.total ? ` · ${Math.floor((100 * job.done) / job.total)} %` : "";
  return html`<div class="job-state">
    ${job.state === "running" && html`<${Progress} label=${t("progress")} done=${job.done} total=${job.total} />`}
    <span>${t(job.state)}${job.state === "running" && percent}</span>
    ${["running", "waiting"].includes(job.state) && job.message && html`<small class="quiet" lang="en">${job.message}</small>`}
    ${job.error && (language.value === "en" ? html`<small class="bad">${job.error.message}</small>
      ${hint && html`<small class="quiet">${hint}</small>`}` : html`<small class="bad">${hint || t("refused")}</small>
      <small class="quiet" lang="en">${job.error.message}</small>`)}</div>`;
}
