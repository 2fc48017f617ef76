// What a run would learn from: figures, lengths, and rows as the model sees them with the unlearned part dimmed.
import { Devices, html, Table, duration } from "../../parts.js";
import { t } from "./i18n.js";

/** `name`: of the file as its owner calls it; the server knows it by an id. */
export function Inspection({ found, name }) {
  const facts = [
    [t("rowsToTrain"), found.rows], [t("rowsHeldOut"), found.held_out], [t("rowsUnusable"), found.invalid_count],
    ...(found.lost_questions ? [[t("rowsLostQuestion"), found.lost_questions]] : []),
    ...(found.lost_greetings ? [[t("rowsLostGreeting"), found.lost_greetings]] : []),
    [t("rowsTwice"), found.duplicates], [t("rowsCut"), found.cut], [t("tokenCount"), found.tokens],
    [t("shareLearned"), `${Math.round(100 * found.learned_share)} %`], [t("tune_steps"), found.steps],
    [t("dataForm"), found.format], [t("template"), found.template || "–"],
    ...(found.plan ? [[t("memoryNeeded"), html`<${Devices} plan=${found.plan} />`]] : []),
    ...(found.seconds === null ? [] : [[t("timeNeeded"), t("timeAbout", { time: duration(found.seconds) })]]),
  ];
  const most = Math.max(...found.histogram.map(([, , count]) => count));
  const bars = found.histogram.map(([low, high, count]) => [`${low}–${high}`,
    html`<meter min="0" max=${most} value=${count} aria-label=${`${low}–${high}`}></meter> ${count}`]);
  const bad = found.invalid.slice(0, 20).map((row) => [`${name}:${row.line}`, row.why]);
  return html`<section class="inspection" aria-live="polite">
    <${Table} caption=${t("inspectData")} columns=${[t("figure"), t("value")]} rows=${facts} />
    ${found.seconds !== null && html`<p class="quiet">${t("timeNeededHelp")}</p>`}
    ${bad.length > 0 && html`<h3>${t("rowsUnusable")}</h3><p class="quiet">${t("rowsSkipped")}</p>
      <${Table} caption=${t("rowsUnusable")} columns=${[t("place"), t("reason")]} rows=${bad} />`}
    <h3>${t("rowLengths")}</h3>
    <${Table} caption=${t("rowLengths")} columns=${[t("tokenCount"), t("rows")]} rows=${bars} />
    <h3>${t("rowsRendered")}</h3><p class="quiet">${t("rowsRenderedHelp")}</p>
    ${found.samples.map((sample) => html`<${Sample} sample=${sample} />`)}</section>`;
}

/** One row; of a pair of answers both, each with the question before it. */
function Sample({ sample }) {
  if (!sample.rejected.length) return html`<${Text} pieces=${sample.pieces} />`;
  return html`<h4>${t("answerChosen")}</h4><${Text} pieces=${sample.pieces} />
    <h4>${t("answerRejected")}</h4><${Text} pieces=${sample.rejected} />`;
}

const Text = ({ pieces }) => html`<pre class="sample" tabindex="0" translate=${false}>${pieces
  .map(([text, learned]) => html`<span class=${learned ? "is-learned" : "is-given"}>${text}</span>`)}</pre>`;
