// How full the context is with what stands here, and what would be left out of the next question.
import { html, Dialog, Name } from "../../parts.js";
import { t } from "./i18n.js";
import { textOf, wordsOf } from "./tree.js";

const CHARACTERS_OF_A_WORD_PIECE = 4;
const CHINESE = /[⺀-鿿豈-﫿＀-￯]/g;

/** A rough weight in tokens: one a Chinese character, one for four others. */
function weigh(text) {
  const chinese = (text.match(CHINESE) || []).length;
  return chinese + (text.length - chinese) / CHARACTERS_OF_A_WORD_PIECE;
}

const known = new WeakMap(); // messages never change, and this is asked at every paint
function weightOf(message) {
  if (!known.has(message)) known.set(message, weigh(textOf(message)) + 1);
  return known.get(message);
}

/**
 * `used` and `dropped` of the next question, in tokens and messages. Estimated, scaled by what the server counted last.
 * With room for an answer of `reserved` tokens; as the server does, turns are left out from the oldest.
 */
export function contextOf(path, { system = "", draft = "", total, reserved }) {
  const weights = path.map(weightOf);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const counted = path.findLastIndex((m) => m.usage && !m.data?.dropped_messages);
  const base = weigh(system);
  const scale = counted < 0 ? 1 : path[counted].usage.total_tokens / (base + sum(weights.slice(0, counted + 1)));
  const used = scale * (base + sum(weights) + weigh(draft));
  let rest = used;
  let dropped = 0;
  while (rest + reserved > total && dropped < path.length) {
    do rest -= scale * weights[dropped++]; while (dropped < path.length && path[dropped].role !== "user");
  }
  return { used: Math.round(used), dropped: path.slice(0, dropped) };
}

/** The meter in the bar; a click says what it means. */
export function ContextMeter({ context, total, onClick }) {
  const { used, dropped } = context;
  const words = dropped.length ? t("contextDrops", { n: dropped.length }) : t("contextShort", { used, total });
  return html`<button type="button" class=${`context quiet ${dropped.length ? "is-full" : ""}`} onClick=${onClick}
    aria-label=${`${t("contextMeter")}: ${words}`} title=${words}>
    <meter min="0" max=${total} value=${Math.min(used, total)} aria-hidden="true"></meter><span>${words}</span>
      </button>`;
}

export function ContextDialog({ context, total, truncate, onClose }) {
  const { used, dropped } = context;
  return html`<${Dialog} title=${t("contextMeter")} onClose=${onClose}>
    <p>${t("contextAbout", { used, total })}</p>
    ${!dropped.length ? html`<p>${t("contextFits")}</p>` : html`
      <p>${truncate ? t("contextLeavesOut", { n: dropped.length }) : t("contextRefused")}</p>
      <ol class="dropped">${dropped.map((m) => html`<li key=${m.id}>
        <strong>${m.role === "user" ? t("you") : t("assistant")}</strong>
        ${" "}<${Name}>${wordsOf(m).slice(0, 120)}<//></li>`)}</ol>`}<//>`;
}
