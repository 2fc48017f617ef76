// The arena of floor 1: answers side by side, blind battles with a vote, and the leaderboard that follows from them.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Tabs, complain } from "../../parts.js";
import { t } from "./i18n.js";
import { own } from "../../api.js";
import { Battle } from "./battle.js";
import { Leaderboard } from "./leaderboard.js";
import { SideBySide } from "./side-by-side.js";
import { isRemote } from "../../floors/chat/request.js";
import { rememberedModel } from "../../floors/chat/settings.js";

export default function Compare({ query, go }) {
  const [models, setModels] = useState([]);
  useEffect(() => {
    const remote = isRemote(rememberedModel()) ? [rememberedModel()] : []; // the one that the chat talks with
    own("GET", "/models")
      .then((r) => setModels([...r.data.filter((m) => m.task === "chat").map((m) => m.model), ...remote]))
        .catch(complain);
  }, []);
  const tab = query.tab || "side";
  return html`<div class="compare"><h2>${t("compare")}</h2>
    <${Tabs} label=${t("compare")} view="compare" at=${tab}
      tabs=${[["side", t("sideBySide")], ["battle", t("battle")], ["leaderboard", t("leaderboard")]]} />
    ${tab === "side" && html`<${SideBySide} models=${models} />`}
    ${tab === "battle" && html`<${Battle} models=${models} go=${go} />`}
    ${tab === "leaderboard" && html`<${Leaderboard} />`}</div>`;
}
