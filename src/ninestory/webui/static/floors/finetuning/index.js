// Floor 8: choose data, look at it, plan, start, watch the curves, read the comparison, chat with the result.
import { html, Tabs } from "../../parts.js";
import { t } from "./i18n.js";
import { titleOf } from "../../views.js";
import { Runs } from "./runs.js";
import { Start } from "./start.js";

export default function Tune({ query, go }) {
  const tab = query.tab || "start";
  return html`<div class="view tune"><h2>${titleOf("tune")}</h2><p class="quiet">${t("tuneHelp")}</p>
    <${Tabs} label=${titleOf("tune")} view="tune" at=${tab} tabs=${[["start", t("newRun")], ["runs", t("runs")]]} />
    ${tab === "runs" ? html`<${Runs} query=${query} go=${go} />` : html`<${Start} go=${go} />`}</div>`;
}
