// Floor 2: vector stores, their files and passages, and questions answered from them with citations to look at.
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { html, FilePicker, Table, Field, Dialog, Empty, Progress, toast, complain, bytes } from "../parts.js";
import { t } from "../i18n.js";
import { call, own, events, upload } from "../api.js";

const STORES = "/v1/vector_stores";
const POLL_MS = 700;
const AROUND = 1; // passages shown before and after a cited one
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

export default function Knowledge({ query, go }) {
  const [stores, setStores] = useState(null);
  const [models, setModels] = useState([]);
  const [passage, setPassage] = useState(null);
  const chosen = stores?.find((s) => s.id === query.store) || stores?.[0];
  const refresh = () => call("GET", `${STORES}?limit=100`).then((r) => setStores(r.data)).catch(complain);
  useEffect(() => {
    refresh();
    own("GET", "/models").then((r) => setModels(r.data.filter((m) => m.task === "chat").map((m) => m.model)))
      .catch(complain);
  }, []);
  const create = async (e) => {
    e.preventDefault();
    const form = e.target;
    try {
      const store = await call("POST", STORES, { name: new FormData(form).get("name") });
      form.reset();
      await refresh();
      go(`documents?store=${store.id}`);
    } catch (error) { complain(error); }
  };
  const remove = (store) => call("DELETE", `${STORES}/${store.id}`)
    .then(() => { go("documents", { replace: true }); return refresh(); }).catch(complain);
  if (!stores) return html`<div class="view"><${Empty} text="…" /></div>`;
  return html`<div class="view knowledge"><h2>${t("floor2")}</h2><p class="quiet">${t("knowledgeHelp")}</p>
    <div class="row filters">
      ${chosen && html`<${Field} id="store" label=${t("knowledgeBase")}><select id="store" value=${chosen.id}
        onChange=${(e) => go(`documents?store=${e.target.value}`)}>
        ${stores.map((s) => html`<option value=${s.id}>${s.name || s.id}</option>`)}</select><//>`}
      <form class="row filters" onSubmit=${create}><${Field} id="name" label=${t("newKnowledgeBase")}><input id="name"
        name="name" required maxlength="200" /><//>
        <button class=${chosen ? "" : "main"}>${t("create")}</button></form></div>
    ${chosen ? html`<${Ask} key=${`ask-${chosen.id}`} store=${chosen} models=${models} onPassage=${setPassage} />
      <${Files} key=${chosen.id} store=${chosen} onChange=${refresh} onPassage=${setPassage}
        onRemove=${() => remove(chosen)} />` : html`<${Empty} text=${t("noKnowledge")} />`}
    ${passage && html`<${Passage} ...${passage} onClose=${() => setPassage(null)} />`}</div>`;
}

function Files({ store, onChange, onPassage, onRemove }) {
  const [files, setFiles] = useState([]);
  const [sent, setSent] = useState(null); // { done, total } of an upload
  const [sure, setSure] = useState(false);
  const alive = useRef(true);
  const refresh = async () => {
    const rows = await call("GET", `${STORES}/${store.id}/files?limit=100`);
    if (alive.current) setFiles(rows.data);
    return rows.data;
  };
  /** Look until every file has been read; what a closed page leaves undone goes on in the server. */
  const follow = async () => {
    try {
      while (alive.current && (await refresh()).some((f) => f.status === "in_progress")) await wait(POLL_MS);
      if (alive.current) onChange();
    } catch (error) { complain(error); }
  };
  useEffect(() => { follow(); return () => { alive.current = false; }; }, []);
  const add = async (chosen) => {
    const ids = [];
    try {
      for (const file of chosen) {
        setSent({ done: ids.length, total: chosen.length });
        ids.push((await upload(file)).id);
      }
      await call("POST", `${STORES}/${store.id}/file_batches`, { file_ids: ids });
    } catch (error) { complain(error); }
    setSent(null);
    await follow();
  };
  const drop = (file) => call("DELETE", `${STORES}/${store.id}/files/${file.id}`).then(follow).catch(complain);
  const inspect = (file) => onPassage({ store: store.id, file: file.id, filename: file.filename });
  const remark = (f) => f.last_error ? html`<span class="bad">${f.last_error.message}</span>` : f.notes.join("; ");
  const reading = files.filter((f) => f.status === "in_progress").length;
  return html`<section class="card"><div class="row"><h3>${t("documents")}</h3><span
    class="grow"></span>
      <${FilePicker} label=${t("addDocuments")} multiple=${true} onFiles=${add} />
      <button type="button" onClick=${() => setSure(true)}>${t("remove")}</button></div>
    ${sent && html`<p role="status">${t("uploading", sent)} <${Progress} label=${t("progress")} done=${sent.done}
      total=${sent.total} /></p>`}
    ${reading > 0 && html`<p role="status">${t("readingFiles", { n: reading })} <${Progress} label=${t("progress")}
      done=${files.length - reading} total=${files.length} /></p>`}
    <${Table} caption=${t("documents")}
      columns=${[t("file"), t("fileState"), t("passages"), t("size"), t("remark"), ""]} rows=${files.map((f) => [
      f.filename, t(`file_${f.status}`), f.passages, bytes(f.usage_bytes), remark(f),
      html`<div class="row">${f.passages > 0 && html`<button type="button" onClick=${() => inspect(f)}>
        ${t("passages")}</button>`}
        <button type="button" aria-label=${`${t("remove")} ${f.filename}`} onClick=${() => drop(f)}>${t("remove")}
          </button></div>`])} />
    ${sure && html`<${Dialog} title=${t("remove")} onClose=${() => setSure(false)}><p>
      ${t("removeKnowledge", { name: store.name || store.id })}</p>
      <div class="row"><button type="button" onClick=${() => setSure(false)}>${t("cancel")}</button><button
        type="button" class="main" onClick=${onRemove}>${t("remove")}</button></div><//>`}</section>`;
}

/** An answer with one more event of the stream in it. */
function withEvent(reply, { type, delta, annotation, item }) {
  if (type === "response.output_text.delta") return { ...reply, text: reply.text + delta };
  if (type === "response.output_text.annotation.added") return { ...reply, marks: [...reply.marks, annotation] };
  if (type === "response.output_item.done" && item.type === "file_search_call") return { ...reply, search: item };
  return reply;
}

function Ask({ store, models, onPassage }) {
  const [question, setQuestion] = useState("");
  const [mode, setMode] = useState("auto");
  const [model, setModel] = useState("");
  const [reply, setReply] = useState(null); // { text, search, marks, found }
  const [busy, setBusy] = useState(false);
  const running = useRef();
  const submit = async (e) => {
    e.preventDefault();
    const asked = question.trim();
    if (!asked || busy) return;
    setBusy(true);
    setReply({ text: "", marks: [], asked, model: model || models[0] });
    running.current = new AbortController();
    try {
      if (mode === "search") {
        const found = await call("POST", `${STORES}/${store.id}/search`, { query: asked, max_num_results: 8 });
        setReply({ text: "", marks: [], found: found.data, threshold: found.threshold });
      } else {
        const tool = { type: "file_search", vector_store_ids: [store.id], answer_mode: mode };
        const include = ["file_search_call.results"];
        const body = { model: model || models[0], input: asked, tools: [tool], include, stream: true, store: false };
        for await (const event of events("/v1/responses", body, running.current.signal)) {
          setReply((before) => withEvent(before, event));
          if (event.type === "response.failed") toast(event.response.error.message, { error: true });
        }
      }
    } catch (error) { complain(error); }
    setBusy(false);
  };
  return html`<section class="card" aria-label=${t("askDocuments")}><h3>${t("askDocuments")}</h3>
    <form class="row filters" onSubmit=${submit}>
      <${Field} id="question" label=${t("question")}><input id="question" value=${question}
        onInput=${(e) => setQuestion(e.target.value)} autocomplete="off" /><//>
      <${Field} id="mode" label=${t("answerMode")}><select id="mode" value=${mode}
        onChange=${(e) => setMode(e.target.value)}>
        ${["auto", "extract", "search"].map((m) => html`<option value=${m}>${t(`mode_${m}`)}</option>`)}</select><//>
      ${mode !== "search" && html`<${Field} id="ask-model" label=${t("model")}><select id="ask-model"
        value=${model || models[0]} onChange=${(e) => setModel(e.target.value)}>
        ${models.map((m) => html`<option value=${m}>${m}</option>`)}</select><//>`}
      ${busy ? html`<button type="button" onClick=${() => running.current.abort()}>${t("stop")}
        </button>` : html`<button class="main" disabled=${!question.trim()}>${t("ask")}</button>`}</form>
    ${busy && !reply?.text && html`<p class="quiet" role="status">${t("answering")}</p>`}
    ${reply?.text && html`<${Answer} reply=${reply} onPassage=${onPassage} />`}
    ${reply?.text && reply.asked && !busy && html`<${Thumbs} key=${reply.asked + reply.text} reply=${reply}
      store=${store} />`}
    ${reply?.found && html`<${Found} reply=${reply} store=${store} onPassage=${onPassage} />`}</section>`;
}

/** The answer, each [n] of it a button that opens the passage. */
function Answer({ reply, onPassage }) {
  const pieces = reply.text.split(/(\[\d{1,2}\])/);
  const mark = (piece) => reply.marks.find((m) => `[${m.number}]` === piece);
  const open = ({ vector_store_id, file_id, filename, ordinal }) =>
    onPassage({ store: vector_store_id, file: file_id, filename, ordinal });
  return html`${reply.search?.notice && html`<p class="quiet">${reply.search.notice}</p>`}
    <div class="answer" aria-live="polite">${pieces.map((piece) => mark(piece)
      ? html`<button type="button" class="cite"
        aria-label=${t("showPassage", { n: mark(piece).number, file: mark(piece).filename })}
        onClick=${() => open(mark(piece))}>${piece}</button>` : piece)}</div>
    ${reply.search?.results?.length > 0 && html`<details><summary>${t("sources")}</summary><ol>
      ${reply.search.results.map((r) => html`<li><strong>${r.filename}</strong>
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
function Found({ reply, store, onPassage }) {
  const rank = (n) => n || "–";
  const open = ({ file_id, filename, passage }) =>
    onPassage({ store: store.id, file: file_id, filename, ordinal: passage.ordinal });
  const why = ({ score, passage }) => t("why", {
    score: score.toFixed(2), cosine: passage.cosine.toFixed(3),
    vector: rank(passage.vector_rank), text: rank(passage.text_rank),
  });
  const below = reply.threshold !== null && reply.found.every((r) => r.passage.cosine < reply.threshold);
  return html`${below && html`<p class="bad">${t("belowThreshold")}</p>`}${reply.found.length ? "" : html`<p>
    ${t("nothingFound")}</p>`}
    <ol class="found">${reply.found.map((r) => html`<li key=${r.passage.id}><button type="button" class="cite"
      onClick=${() => open(r)}>${r.filename}</button>
      ${r.passage.page ? ` · ${t("page", { n: r.passage.page })}` : ""} · ${r.passage.context}
      <p class="quiet">${why(r)}</p>
      <p class="answer">${r.content[0].text}</p></li>`)}</ol>`;
}

/** Passages of a file: all of them, or a cited one highlighted between its neighbours. */
function Passage({ store, file, filename, ordinal, onClose }) {
  const [rows, setRows] = useState(null);
  useEffect(() => {
    const range = ordinal === undefined ? "" : `?first=${Math.max(ordinal - AROUND, 0)}&limit=${2 * AROUND + 1}`;
    call("GET", `${STORES}/${store}/files/${file}/content${range}`).then((r) => setRows(r.data))
      .catch((e) => { complain(e); onClose(); });
  }, [store, file, ordinal]);
  const place = ({ page, context, start, end }) =>
    [page && t("page", { n: page }), context, t("characters", { start, end })].filter(Boolean).join(" · ");
  return html`<${Dialog} title=${filename} onClose=${onClose}><div class="scroll" tabindex="0" role="region"
    aria-label=${t("passages")}>
    ${rows ? rows.map((row) => html`<section key=${row.id}><p class="quiet">${place(row)}</p><p class="answer">
      ${row.ordinal === ordinal ? html`<mark>${row.text}</mark>` : row.text}</p></section>`) : html`<${Empty}
      text="…" />`}</div><//>`;
}
