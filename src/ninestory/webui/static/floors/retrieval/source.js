// A document's source beside its passages: the page as a picture or its text, the chosen passage highlighted in it.
import { useEffect, useLayoutEffect, useRef, useState } from "../../vendor/hooks.js";
import { html, Dialog, Empty, IconButton, told } from "../../parts.js";
import { t } from "./i18n.js";
import { call } from "../../api.js";

const AROUND = 20; // passages shown on either side where the source itself cannot be

/** `at`: the passage to begin with, by its ordinal; the document's beginning when it is not said. `quote`: the
 *  characters "start-end" of it that were cited; they are marked until another passage is chosen. */
export function Source({ store, file, at, quote, onClose }) {
  const [start, end] = (quote || "").split("-");
  const cited = end ? `&start=${start}&end=${end}` : "";
  const [place, setPlace] = useState(at === undefined ? "" : `?ordinal=${at}${cited}`);
  const [shown, setShown] = useState(null);
  const [chosen, setChosen] = useState(at === undefined ? null : Number(at));
  const root = useRef();
  const below = `/ninestory/v1/vector_stores/${store}/files/${file}/source`;
  useEffect(() => {
    let wanted = true;
    const show = (answer) => { if (wanted) setShown(answer); };
    call("GET", below + place).then(show).catch((error) => passagesOnly(store, file, chosen, error).then(show));
    return () => { wanted = false; };
  }, [place]);
  useLayoutEffect(() => {
    const marked = root.current?.querySelectorAll(".source-page .is-chosen, mark, .passages [aria-pressed=true]") || [];
    [...marked].reverse().forEach((e) => e.scrollIntoView({ block: "nearest" }));
  }, [shown, chosen]);
  return html`<${Dialog} title=${shown?.filename || t("source")} wide=${true} onClose=${onClose}>
    <div class="source" ref=${root}>${shown ? html`<${Sheet} shown=${shown} pictures=${`${below}/pages`} chosen=${chosen}
      onChoose=${setChosen} onPlace=${setPlace} />
      <${Passages} rows=${shown.passages} chosen=${chosen} onChoose=${setChosen} />` : html`<${Empty} text="…" />`}</div><//>`;
}

/** What there is when the source cannot be shown: it is gone, too large, or cannot be read any more. */
async function passagesOnly(store, file, chosen, error) {
  const first = Math.max((chosen ?? 0) - AROUND, 0);
  const path = `/v1/vector_stores/${store}/files/${file}/content?first=${first}&limit=${2 * AROUND + 1}`;
  const content = await call("GET", path).catch(() => ({ data: [] }));
  return { kind: "none", filename: content.filename, passages: content.data, problem: told(error) };
}

function Sheet({ shown, pictures, chosen, onChoose, onPlace }) {
  if (shown.kind === "none") {
    const { text, hint, original } = shown.problem;
    return html`<div><p class="bad">${text}</p><p>${hint}</p>${original && html`<p class="quiet"
      lang="en">${original}</p>`}</div>`;
  }
  const notice = shown.changed && html`<p class="bad">${t("sourceChanged")}</p>`;
  if (shown.kind === "text") {
    return html`<div>${notice}<${TextSteps} shown=${shown} onPlace=${onPlace} /><${SourceText} shown=${shown}
      chosen=${markedPart(shown, chosen)} /></div>`;
  }
  return html`<div>${notice}<${PageSteps} shown=${shown} onPlace=${onPlace} /><${SourcePage} shown=${shown}
    picture=${`${pictures}/${shown.page}`} chosen=${chosen} onChoose=${onChoose} /></div>`;
}

/** What is marked in the text: the cited sentence while its passage is chosen, else the whole passage. */
function markedPart({ passages, quote }, chosen) {
  const passage = passages.find((p) => p.ordinal === chosen);
  const holds = quote && passage && passage.start <= quote.start && quote.end <= passage.end;
  return holds ? quote : passage;
}

/** Left and right through what cannot be shown at once. */
function Steps({ before, after, onBefore, onAfter, labels, children }) {
  return html`<div class="row"><${IconButton} icon="left" label=${labels[0]} disabled=${!before} onClick=${onBefore} />
    <span>${children}</span>
    <${IconButton} icon="right" label=${labels[1]} disabled=${!after} onClick=${onAfter} /></div>`;
}

const PageSteps = ({ shown: { page, pages }, onPlace }) => html`<${Steps} before=${page > 1} after=${page < pages}
  labels=${[t("pageBefore"), t("pageAfter")]} onBefore=${() => onPlace(`?page=${page - 1}`)}
  onAfter=${() => onPlace(`?page=${page + 1}`)}>${t("pageOf", { page, pages })}<//>`;

function TextSteps({ shown: { start, end, length }, onPlace }) {
  if (start === 0 && end === length) return null;
  const step = Math.round((end - start) / 2);
  return html`<${Steps} before=${start > 0} after=${end < length} labels=${[t("textBefore"), t("textAfter")]}
    onBefore=${() => onPlace(`?near=${Math.max(start - step, 0)}`)} onAfter=${() => onPlace(`?near=${end}`)}>
    ${t("charactersOf", { start, end, length })}<//>`;
}

/** The picture of a page; the passages' lines lie over it. The list beside it does the same for the keyboard. */
function SourcePage({ shown, picture, chosen, onChoose }) {
  const { width, height, page, passages, filename } = shown;
  const marked = markedPart(shown, chosen);
  const inParts = ([left, top, w, h]) =>
    `left:${left * 100}%;top:${top * 100}%;width:${w * 100}%;height:${h * 100}%`;
  return html`<div class="source-page" tabindex="0" role="region" aria-label=${t("source")}>
    <div class="sheet" style=${`aspect-ratio:${width}/${height}`}>
      <img src=${picture} alt=${`${filename}, ${t("page", { n: page })}`} />
      ${passages.flatMap((p) => p.boxes.map((box) => html`<span aria-hidden="true" style=${inParts(box)}
        class=${p === marked ? "is-chosen" : ""} onClick=${() => onChoose(p.ordinal)}></span>`))}
      ${marked && marked === shown.quote && marked.boxes.map((box) => html`<span aria-hidden="true" style=${inParts(box)}
        class="is-chosen"></span>`)}</div></div>`;
}

/** The text as it was read; the chosen passage is a slice of it. */
function SourceText({ shown, chosen }) {
  const marked = ({ start, end, text }) => {
    const from = Math.max(chosen?.start ?? end, start) - start;
    const to = Math.min(chosen?.end ?? start, end) - start;
    if (from >= to) return text;
    return html`${text.slice(0, from)}<mark>${text.slice(from, to)}</mark>${text.slice(to)}`;
  };
  return html`<div class="source-text" tabindex="0" role="region" aria-label=${t("source")}>
    ${shown.blocks.map((block) => html`<div key=${block.start} class=${`is-${block.kind}`}>${marked(block)}</div>`)}
    </div>`;
}

function Passages({ rows, chosen, onChoose }) {
  const place = ({ page, context, start, end }) =>
    [page && t("page", { n: page }), context, t("characters", { start, end })].filter(Boolean).join(" · ");
  const keys = (e) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    const next = step && e.target.closest("li")?.[step > 0 ? "nextElementSibling" : "previousElementSibling"];
    if (!next) return;
    e.preventDefault();
    next.querySelector("button").focus();
    next.querySelector("button").click();
  };
  if (!rows.length) return html`<p class="quiet">${t("noPassagesHere")}</p>`;
  return html`<ol class="passages" aria-label=${t("passages")} onKeyDown=${keys}>${rows.map((row) => html`<li
    key=${row.id}><button type="button" aria-pressed=${row.ordinal === chosen} onClick=${() => onChoose(row.ordinal)}>
      <span class="quiet">${place(row)}</span><span class="answer">${row.text}</span></button></li>`)}</ol>`;
}
