// Prompt engineering: the prompts that one keeps, and a bench on which versions of one answer the same cases.
import { html, Tabs } from "../../parts.js";
import { t } from "./i18n.js";
import { Library } from "./library.js";
import { Workbench } from "./workbench.js";

export default function Prompts({ query, go }) {
  const tab = query.tab || "library";
  return html`<div class="view prompts"><h2>${t("prompts")}</h2><p class="quiet">${t("promptsHelp")}</p>
    <${Tabs} label=${t("prompts")} view="prompts" at=${tab}
      tabs=${[["library", t("library")], ["workbench", t("workbench")]]} />
    ${tab === "workbench" ? html`<${Workbench} />` : html`<${Library} go=${go} />`}</div>`;
}
