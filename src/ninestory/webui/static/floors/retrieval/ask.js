// Questions to a knowledge base: a conversation whose answers cite, or only what a search finds and why.
import { useRef, useState } from "../../vendor/hooks.js";
import { html, Field, Name, complain, toast } from "../../parts.js";
import { t } from "./i18n.js";
import { call, events, own } from "../../api.js";

const STORES = "/v1/vector_stores";
const MODES = ["auto", "extract", "search"];

/** An answer with one more event of the stream in it. */
function withEvent(reply, { type, delta, annotation, item }) {
  if (type === "response.output_text.delta") return { ...reply, text: reply.text + delta };
  if (type === "response.output_text.annotation.added") return { ...reply, marks: [...reply.marks, annotation] };
  if (type === "response.output_item.done" && item.type === "file_search_call") return { ...reply, search: item };
  return reply;
}

/** What was said so far, so that a follow-up is understood. */
const turnsOf = (replies) => replies.filter((reply) => reply.text).flatMap(({ asked, text }) =>
  [{ role: "user", content: asked }, { role: "assistant", content: text }]);

export function Ask({ store, models, onPassage }) {
  const [question, setQuestion] = useState("");
  const [mode, setMode] = useState("auto");
  const [model, setModel] = useState("");
  const [replies, setReplies] = useState([]); // { asked, text, search, marks, model } or { asked, found, threshold, acceptedBy }
  const [busy, setBusy] = useState(false);
  const running = useRef();
  const change = (how) => setReplies((before) => [...before.slice(0, -1), how(before.at(-1))]);
  const answer = async (asked, chosen) => {
    const tool = { type: "file_search", vector_store_ids: [store.id], answer_mode: mode };
    const input = [...turnsOf(replies), { role: "user", content: asked }];
    const body = { model: chosen, input, tools: [tool], include: ["file_search_call.results"], stream: true, store: false };
    for await (const event of events("/v1/responses", body, running.current.signal)) {
      change((reply) => withEvent(reply, event));
      if (event.type === "response.failed") toast(event.response.error.message, { error: true });
    }
  };
  const search = async (asked) => {
    const found = await call("POST", `${STORES}/${store.id}/search`, { query: asked, max_num_results: 8 });
    change((reply) => ({ ...reply, found: found.data, threshold: found.threshold, acceptedBy: found.accepted_by }));
  };
  const submit = async (e) => {
    e.preventDefault();
    const asked = question.trim();
    if (!asked || busy) return;
    const chosen = model || models[0];
    setBusy(true);
    setQuestion("");
    setReplies([...replies, { asked, text: "", marks: [], model: chosen }]);
    running.current = new AbortController();
    try {
      await (mode === "search" ? search(asked) : answer(asked, chosen));
    } catch (error) { complain(error); }
    setBusy(false);
  };
  return html`<section class="card" aria-label=${t("askDocuments")}><div class="row"><h3>${t("askDocuments")}</h3><span
    class="grow"></span>${replies.length > 0 && !busy && html`<button type="button" onClick=${() => setReplies([])}>
      ${t("newChat")}</button>`}</div>
    ${replies.map((reply, i) => html`<${Reply} key=${i} reply=${reply} store=${store} onPassage=${onPassage}
      live=${busy && i === replies.length - 1} />`)}
    <form class="row filters" onSubmit=${submit}>
      <${Field} id="question" label=${t("question")}><input id="question" value=${question}
        onInput=${(e) => setQuestion(e.target.value)} autocomplete="off" /><//>
      <${Field} id="mode" label=${t("answerMode")}><select id="mode" value=${mode}
        onChange=${(e) => setMode(e.target.value)}>
        ${MODES.map((m) => html`<option value=${m}>${t(`mode_${m}`)}</option>`)}</select><//>
      ${mode !== "search" && html`<${Field} id="ask-model" label=${t("model")}><select id="ask-model"
        value=${model || models[0]} onChange=${(e) => setModel(e.target.value)}>
        ${models.map((m) => html`<option value=${m} translate=${false}>${m}</option>`)}</select><//>`}
      ${busy ? html`<button type="button" onClick=${() => running.current.abort()}>${t("stop")}
        </button>` : html`<button class="main" disabled=${!question.trim()}>${t("ask")}</button>`}</form></section>`;
}

/** A question and what came of it. */
function Reply({ reply, store, live, onPassage }) {
  return html`<article class="reply"><p class="asked"><${Name}>${reply.asked}<//></p>
    ${live && !reply.text && html`<p class="quiet" role="status">${t("answering")}</p>`}
    ${reply.text && html`<${Answer} reply=${reply} live=${live} onPassage=${onPassage} />`}
    ${reply.text && !live && html`<${Thumbs} reply=${reply} store=${store} />`}
    ${reply.found && html`<${Found} reply=${reply} onPassage=${onPassage} />`}</article>`;
}

/** The answer, each [n] of it a button that opens the passage in its source. */
function Answer({ reply, live, onPassage }) {
  const pieces = reply.text.split(/(\[\d{1,2}\])/);
  const mark = (piece) => reply.marks.find((m) => `[${m.number}]` === piece);
  return html`${reply.search?.notice && html`<p class="quiet">${reply.search.notice}</p>`}
    <div class="answer" aria-live="polite" aria-busy=${live}>${pieces.map((piece) => mark(piece)
      ? html`<button type="button" class="cite"
        aria-label=${t("showPassage", { n: mark(piece).number, file: mark(piece).filename })}
        onClick=${() => onPassage({ file: mark(piece).file_id, at: mark(piece).ordinal,
          quote: `${mark(piece).start}-${mark(piece).end}` })}>${piece}
        </button>` : piece)}</div>
    ${reply.search?.results?.length > 0 && html`<details><summary>${t("sources")}</summary><ol>
      ${reply.search.results.map((r) => html`<li><strong><${Name}>${r.filename}<//></strong>
      ${r.page ? ` · ${t("page", { n: r.page })}` : ""} · ${r.context}<p class="quiet answer">${r.text}</p></li>`)}
      </ol></details>`}`;
}

/** A thumb for an answer: kept with the knowledge base, and asked again by its evaluation. */
function Thumbs({ reply, store }) {
  const [given, setGiven] = useState(false);
  const give = (good) => {
    const cited = reply.marks[0];
    const first = reply.search?.results?.[0];
    return own("POST", `/vector_stores/${store.id}/feedback`, {
      question: reply.asked, answer: reply.text, good, model: reply.model || "",
      file: cited?.filename || first?.filename || "", passage: (cited?.quote || first?.text || "").slice(0, 200),
    }).then(() => setGiven(true)).catch(complain);
  };
  if (given) return html`<p class="quiet" role="status">${t("thumbKept")}</p>`;
  return html`<div class="row" role="group" aria-label=${t("thumbs")}>
    <button type="button" onClick=${() => give(true)}>${t("thumbUp")}</button>
    <button type="button" onClick=${() => give(false)}>${t("thumbDown")}</button></div>`;
}

/** What a search found and why, without any model. */
function Found({ reply, onPassage }) {
  const rank = (n) => n || "–";
  const threshold = reply.threshold?.toFixed(3) ?? "–";
  const why = ({ passage }) => t("why", {
    cosine: passage.cosine.toFixed(3), threshold, relation: passage.cosine < (reply.threshold ?? -1) ? "<" : "≥",
    vector: rank(passage.vector_rank), text: rank(passage.text_rank),
  }) + (passage.terms.length ? t("whyHolds", { terms: passage.terms.join(", ") }) : "");
  return html`${reply.found.length ? html`<p class=${reply.acceptedBy ? "quiet" : "bad"} role="status">
    ${t(`accepted_${reply.acceptedBy ?? "none"}`, { threshold })}</p>` : html`<p>${t("nothingFound")}</p>`}
    <ol class="found">${reply.found.map((r) => html`<li key=${r.passage.id}><button type="button" class="cite"
      onClick=${() => onPassage({ file: r.file_id, at: r.passage.ordinal })}><${Name}>${r.filename}<//></button>
      ${r.passage.page ? ` · ${t("page", { n: r.passage.page })}` : ""} · ${r.passage.context}
      <p class="quiet">${why(r)}</p>
      <p class="answer">${r.content[0].text}</p></li>`)}</ol>`;
}
