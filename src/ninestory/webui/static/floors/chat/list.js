// All conversations: search over every text, rename, pin, delete with undo, export and import.
import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { html, Ask, Empty, Icon, Menu, complain, download, toast } from "../../parts.js";
import { t } from "./i18n.js";
import { own } from "../../api.js";
import { fromMarkdown, toMarkdown } from "./markdown-file.js";

const MOST = 200;
const SEARCH_PAUSE_MS = 200;

/** The rows that fit the search, and how to load them again. */
export function useList() {
  const [rows, setRows] = useState(null); // not known yet
  const [search, setSearch] = useState("");
  const wanted = useRef();
  wanted.current = search; // an answer that ends later refreshes by what is searched for then
  const refresh = () => own("GET", `/conversations?limit=${MOST}&q=${encodeURIComponent(wanted.current)}`)
    .then((r) => setRows(r.data)).catch(complain);
  useEffect(() => {
    const timer = setTimeout(refresh, search ? SEARCH_PAUSE_MS : 0);
    return () => clearTimeout(timer);
  }, [search]);
  return { rows, search, setSearch, refresh };
}

export function ConversationList({ list, isOpen, at, onOpen, onChange, onRemoved }) {
  const [renaming, setRenaming] = useState(null);
  const file = useRef();
  const importFile = async (e) => {
    const [chosen] = e.target.files;
    e.target.value = "";
    try { await importFrom(chosen); list.refresh(); toast(t("imported")); } catch (error) { complain(error); }
  };
  const saveAll = () => exported("").then((d) => saveJson("conversations", d)).catch(complain);
  const { rows, search, setSearch } = list;
  return html`<aside class=${`list ${isOpen ? "is-open" : ""}`} aria-label=${t("conversations")}>
    <div class="list-head">
      <button type="button" class="main" onClick=${() => onOpen(null)}><${Icon} name="plus" /> ${t("newChat")}</button>
      <${Menu} label=${t("more")} icon="more" items=${[
        [t("importFile"), () => file.current.click()],
        rows?.length > 0 && [t("exportAll"), saveAll],
      ]} /><input ref=${file} type="file" accept=".json,.md" aria-label=${t("importFile")} hidden
        onChange=${importFile} />
    </div>
    <input type="search" aria-label=${t("searchChats")} placeholder=${t("searchChats")} value=${search}
      onInput=${(e) => setSearch(e.target.value)} />
    ${rows?.length === 0 ? html`<${Empty} text=${search ? t("nothingFound") : t("noChats")} />` : html`<ul>
      ${rows?.map((row) =>
      html`<${Row} key=${row.id} row=${row} isCurrent=${row.id === at} onOpen=${onOpen} onRename=${setRenaming}
        onPin=${() => onChange(row, { pinned: !row.pinned })} onRemove=${() => remove(row, list, onRemoved)} />`)}
          </ul>`}
    ${renaming && html`<${Ask} label=${t("rename")} value=${renaming.title} onClose=${() => setRenaming(null)}
      onSave=${(title) => { onChange(renaming, { title }); setRenaming(null); }} />`}</aside>`;
}

function Row({ row, isCurrent, onOpen, onRename, onPin, onRemove }) {
  const open = (e) => { e.preventDefault(); onOpen(row.id); };
  const save = (how) => exported(row.id).then(how).catch(complain);
  return html`<li class=${isCurrent ? "is-current" : ""}>
    <a href=${`/ui/chat?id=${row.id}`} aria-current=${isCurrent ? "true" : undefined} onClick=${open}>
      ${row.pinned && html`<${Icon} name="pin" /><span class="hidden">${t("pinned")}</span>`}
      <span class="title" translate=${!row.title}>${row.title || t("untitled")}</span>
      ${row.snippet && html`<small translate=${false}>${row.snippet}</small>`}</a>
    <${Menu} label=${t("more")} icon="more" items=${[
      [t("rename"), () => onRename(row)],
      [row.pinned ? t("unpin") : t("pin"), onPin],
      [t("exportJson"), () => save((d) => saveJson(row.title || row.id, d))],
      [t("exportMarkdown"), () => save((d) => saveMarkdown(row.title || row.id, d.conversations[0]))],
      [t("remove"), onRemove],
    ]} /></li>`;
}

async function remove(row, list, onRemoved) {
  const restore = () => own("POST", `/conversations/${row.id}/restore`).then(() => list.refresh()).catch(complain);
  try {
    await own("DELETE", `/conversations/${row.id}`);
    list.refresh();
    onRemoved(row);
    toast(t("removed", { title: row.title || t("untitled") }), { action: { label: t("undo"), run: restore } });
  } catch (e) { complain(e); }
}

const exported = (id) => own("GET", `/conversations/export${id && `?id=${id}`}`);
const fileName = (title) => title.replace(/[\\/:*?"<>|\p{Cc}]+/gu, " ").trim().slice(0, 60) || "conversation";
const saveJson = (title, data) => download(`${fileName(title)}.json`, JSON.stringify(data, null, 1));
const saveMarkdown = (title, conversation) => download(`${fileName(title)}.md`, toMarkdown(conversation));

async function importFrom(file) {
  const text = await file.text();
  let data;
  if (file.name.endsWith(".md")) {
    data = fromMarkdown(text, file.name) || noConversation();
    return own("POST", "/conversations", data);
  }
  try { data = JSON.parse(text); } catch { noConversation(); }
  return own("POST", "/conversations/import", data);
}

function noConversation() {
  throw Object.assign(new Error(t("importNothing")), { status: 400, hint: t("importNothingHelp") });
}
