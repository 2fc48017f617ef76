// The runs of this home, and the report of one: base against tuned on the same rows.
import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { html, Name, Table, complain } from "../../parts.js";
import { t } from "./i18n.js";
import { own } from "../../api.js";
import { link } from "../../router.js";
import { render } from "../../md.js";
import { rememberModel } from "../chat/settings.js";

export function Runs({ query, go }) {
  const [runs, setRuns] = useState([]);
  useEffect(() => { own("GET", "/tuning/runs").then((r) => setRuns(r.data)).catch(complain); }, []);
  if (query.name) return html`<${Report} key=${query.name} name=${query.name} />`;
  const rows = runs.map((run) => [
    html`<${Name}>${run.name}<//>`, html`<${Name}>${run.model}<//>`, run.method, run.step,
    run.loss === null ? "–" : run.loss.toFixed(3),
    run.alias ? html`<div class="row"><a ...${link(`tune?tab=runs&name=${encodeURIComponent(run.name)}`)}>
      ${t("report")}</a><button type="button"
        onClick=${() => { rememberModel(run.alias); go("chat"); }}>${t("chatWithIt")}</button></div>`
      : html`<span class="quiet">${t("unfinished")}</span>`]);
  return html`<${Table} caption=${t("runs")} empty=${t("noRuns")} rows=${rows}
    columns=${[t("runName"), t("model"), t("tuneMethod"), t("tune_steps"), t("loss"), ""]} />`;
}

function Report({ name }) {
  const place = useRef(null);
  useEffect(() => {
    own("GET", `/tuning/runs/${encodeURIComponent(name)}/report`)
      .then((r) => render(place.current, r.markdown, false, { copy: t("copy"), copied: t("copied") })).catch(complain);
  }, [name]);
  return html`<p><a ...${link("tune?tab=runs")}>${t("runs")}</a></p>
    <div class="prose" ref=${place} translate=${false}></div>`;
}
