// How sure the model was of every token, and what else it might have said.
import { useState } from "../../vendor/hooks.js";
import { html } from "../../parts.js";
import { t } from "./i18n.js";

const MOST = 2000; // buttons that a page can hold with ease

const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1)} %`;
const shown = (token) => token.replaceAll("\n", "⏎").replaceAll(" ", "·") || "∅";
/** Four steps, so that the shade is not the only thing that tells them apart: the share is in the name as well. */
const step = (logprob) => [0.25, 0.5, 0.9].filter((limit) => Math.exp(logprob) >= limit).length;

/** `tokens`: [token, logprob, [[other, logprob] …]] … or nothing. */
export function Probabilities({ tokens }) {
  const [open, setOpen] = useState(false);
  const [at, setAt] = useState(0);
  if (!tokens?.length) return null;
  const [token, logprob, others] = tokens[at];
  return html`<details onToggle=${(e) => setOpen(e.target.open)}><summary>${t("probabilities")}</summary>${open && html`
    <p class="quiet">${t("probabilitiesHelp")}</p>
    <div class="tokens" translate=${false}>${tokens.slice(0, MOST).map(([text, share], i) => html`<button type="button"
      key=${i}
      class=${`token is-${step(share)}`} aria-pressed=${i === at} aria-label=${`${shown(text)} ${percent(share)}`}
      onClick=${() => setAt(i)}>${shown(text)}</button>`)}</div>
    <table class="others" translate=${false}><caption>${t("othersFor", { token: shown(token) })}</caption><tbody>
      ${(others.length ? others : [[token, logprob]]).map(([text, share]) => html`<tr><th scope="row"><code>
        ${shown(text)}</code></th>
        <td><meter min="0" max="1" value=${Math.exp(share)} aria-hidden="true"></meter> ${percent(share)}</td></tr>`)}
    </tbody></table>`}</details>`;
}
