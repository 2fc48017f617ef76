// A knowledge base's files: what became of each, adding more, taking one out.
import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { html, Confirm, FilePicker, Name, Table, Progress, complain, bytes, told } from "../../parts.js";
import { t, language } from "./i18n.js";
import { call, upload } from "../../api.js";

const STORES = "/v1/vector_stores";
const POLL_MS = 700;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function allFiles(store) {
  const rows = [];
  for (;;) {
    const after = rows.length ? `&after=${rows.at(-1).id}` : "";
    const page = await call("GET", `${STORES}/${store}/files?limit=100${after}`);
    rows.push(...page.data);
    if (!page.has_more) return rows;
  }
}

/** Why a file failed, in the page's language, or what a reader should know of it. */
function Remark({ file }) {
  const { last_error: error, notes } = file;
  if (!error) return notes.join("; ");
  const hint = language.value === "zh" ? error.hint_zh : error.hint;
  const words = told({ code: error.reason, message: error.message, hint });
  return html`<span class="bad">${words.text}</span>${words.hint && html` <span>${words.hint}</span>`}
    ${words.original && html` <span class="quiet" lang="en">${words.original}</span>`}`;
}

export function Files({ store, onChange, onPassage, onRemove }) {
  const [files, setFiles] = useState([]);
  const [sent, setSent] = useState(null); // { done, total } of an upload
  const [sure, setSure] = useState(false);
  const alive = useRef(true);
  const refresh = async () => {
    const rows = await allFiles(store.id);
    if (alive.current) setFiles(rows);
    return rows;
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
      html`<${Name}>${f.filename}<//>`, t(`file_${f.status}`), f.passages, bytes(f.usage_bytes), html`<${Remark} file=${f} />`,
      html`<div class="row">${f.passages > 0 && html`<button type="button" onClick=${() => onPassage({ file: f.id })}>
        ${t("passages")}</button>`}
        <button type="button" aria-label=${`${t("remove")} ${f.filename}`} onClick=${() => drop(f)}>${t("remove")}
          </button></div>`])} />
    ${sure && html`<${Confirm} title=${t("remove")} text=${t("removeKnowledge", { name: store.name || store.id })}
      action=${t("remove")} onClose=${() => setSure(false)} onConfirm=${onRemove} />`}</section>`;
}
