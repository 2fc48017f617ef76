// Floor 1: conversations. A conversation is messages with a parent, and a leaf; the path is walked from leaf to root.
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { html, Icon, IconButton, Menu, Field, Dialog, Empty, toast, complain, bytes, copyText, isShortened } from "../parts.js";
import { t, language } from "../i18n.js";
import { own, call, events } from "../api.js";
import { loaded, restarts } from "../live.js";

const NUMBERS = [["temperature", 0, 2, 0.1], ["top_p", 0.01, 1, 0.01], ["top_k", 0, 1000, 1], ["min_p", 0, 1, 0.01], ["repetition_penalty", 0.5, 2, 0.05], ["max_tokens", 1, 100000, 1], ["seed", 0, 4294967295, 1]];
const markdown = () => import("../md.js"); // on the first answer: two thirds of the page's bytes
const newId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");
const fresh = () => ({ id: null, revision: 0, title: "", model: null, messages: [], leaf: null, settings: {} });
const isRemote = (model) => Boolean(model?.startsWith("openai:"));
const remembered = () => { try { return JSON.parse(localStorage.getItem("ninestory.settings")) || {}; } catch { return {}; } };

function pathOf(conversation) {
  const byId = new Map(conversation.messages.map((m) => [m.id, m]));
  const path = [];
  for (let m = byId.get(conversation.leaf); m; m = byId.get(m.parent)) path.unshift(m);
  return path;
}
const siblings = (conversation, message) => conversation.messages.filter((m) => m.parent === message.parent && m.role === message.role);
function tipOf(conversation, id) {
  for (;;) {
    const children = conversation.messages.filter((m) => m.parent === id);
    if (!children.length) return id;
    id = children[children.length - 1].id;
  }
}

export default function Chat({ query, go }) {
  const [conversation, setConversation] = useState(fresh);
  const [list, setList] = useState([]);
  const [search, setSearch] = useState("");
  const [installed, setInstalled] = useState([]);
  const [live, setLive] = useState(null);
  const [panel, setPanel] = useState(false);
  const [listOpen, setListOpen] = useState(false);
  const [renaming, setRenaming] = useState(null);
  const [settings, setSettings] = useState(remembered);
  const [announcement, announce] = useState("");
  const current = useRef(conversation);
  current.current = conversation;
  const update = (value) => { current.current = value; setConversation(value); };

  const refreshList = (q = search) => own("GET", `/conversations?limit=200&q=${encodeURIComponent(q)}`).then((r) => setList(r.data)).catch(complain);
  useEffect(() => { own("GET", "/models").then((r) => setInstalled(r.data.filter((m) => m.task === "chat"))).catch(complain); }, [restarts.value]);
  useEffect(() => { const timer = setTimeout(() => refreshList(search), search ? 200 : 0); return () => clearTimeout(timer); }, [search]);
  useEffect(() => {
    if (query.id === (current.current.id || undefined)) return;
    if (!query.id) { update(fresh()); return; }
    own("GET", `/conversations/${encodeURIComponent(query.id)}`).then((c) => { update(c); }).catch((e) => { complain(e); go("chat", { replace: true }); });
  }, [query.id]);
  useEffect(() => { localStorage.setItem("ninestory.settings", JSON.stringify(settings)); }, [settings]);

  const remote = isRemote(settings.model) ? [{ model: settings.model, context: 0 }] : [];
  const models = [...installed, ...remote].map((m) => ({ ...m, row: loaded.value?.find((row) => row.model === m.model) }));
  const model = models.some((m) => m.model === settings.model) ? settings.model : models[0]?.model;

  // True when it is on the server; false when another tab was there first (nothing is overwritten).
  async function store(messages, leaf) {
    let c = current.current;
    try {
      if (!c.id) {
        const title = (messages.find((m) => m.role === "user")?.content || "").slice(0, 60);
        c = await own("POST", "/conversations", { title, model, messages: [...c.messages], leaf });
        update({ ...c });
        go(`chat?id=${c.id}`, { replace: true });
      } else {
        const summary = await own("POST", `/conversations/${c.id}/messages`, { revision: c.revision, messages, leaf });
        update({ ...current.current, revision: summary.revision });
      }
      refreshList();
    } catch (e) {
      if (e.code === "stale_revision") {
        toast(t("stale"), { error: true, action: { label: t("reload"), run: () => own("GET", `/conversations/${c.id}`).then(update) } });
        return false;
      }
      complain(e);
    }
    return true;
  }

  function requestBody(path, goOn) {
    const messages = path.map((m) => ({ role: m.role, content: m.content }));
    if (settings.system) messages.unshift({ role: "system", content: settings.system });
    const body = { model, messages, stream: true, stream_options: { include_usage: true } };
    for (const [name] of NUMBERS) if (settings[name] !== undefined && settings[name] !== "") body[name] = Number(settings[name]);
    if (goOn) body.continue_final_message = true;
    return body;
  }

  async function answer(before, into = null) {
    const message = into || { id: newId(), parent: before[before.length - 1].id, role: "assistant", content: "", reasoning: "", model, finish_reason: null, usage: null, data: {}, created_at: Date.now() / 1000 };
    const state = { id: message.id, text: into ? into.content : "", reasoning: "", controller: new AbortController(), began: performance.now(), first: 0, count: 0 };
    if (!into) update({ ...current.current, messages: [...current.current.messages, message], leaf: message.id });
    setLive({ ...state, note: t("starting") });
    announce(t("answering"));
    const done = { ...message };
    try {
      for await (const chunk of events("/v1/chat/completions", requestBody(into ? [...before] : before, Boolean(into)), state.controller.signal)) {
        if (chunk.usage) { done.usage = chunk.usage; done.data = { ...done.data, ...chunk.ninestory }; }
        const choice = chunk.choices[0];
        if (!choice) continue;
        if (choice.delta.content) { state.text += choice.delta.content; state.count++; }
        if (choice.delta.reasoning_content) state.reasoning += choice.delta.reasoning_content;
        state.first ||= performance.now();
        if (choice.finish_reason) done.finish_reason = choice.finish_reason;
        paint(state);
      }
      announce(t("answered"));
    } catch (e) {
      done.finish_reason = e.name === "AbortError" ? "cancelled" : "error";
      announce(e.name === "AbortError" ? t("stopped") : t("interrupted"));
      if (e.name !== "AbortError") { complain(e); }
    }
    const seconds = (performance.now() - state.first) / 1000;
    Object.assign(done, { content: state.text, reasoning: state.reasoning });
    done.data = { ...done.data, tokens_per_second: state.first && seconds > 0 ? state.count / seconds : 0, first_token_seconds: state.first ? (state.first - state.began) / 1000 : 0 };
    clearTimeout(painting.current);
    painting.current = 0;
    setLive(null);
    const c = current.current;
    update({ ...c, messages: c.messages.map((m) => (m.id === done.id ? done : m)) });
    const added = c.id ? [...before.slice(-1).filter((m) => m.id !== done.id), done] : c.messages.map((m) => (m.id === done.id ? done : m));
    await store(added, done.id);
  }
  const painting = useRef(0);
  function paint(state) {
    if (painting.current) return;
    painting.current = setTimeout(() => { painting.current = 0; setLive({ ...state }); }, 40);
  }

  async function send(text, parent) {
    if (!text.trim() || live || !model) return;
    const c = current.current;
    const message = { id: newId(), parent: parent === undefined ? c.leaf : parent, role: "user", content: text, reasoning: "", model: null, finish_reason: null, usage: null, data: {}, created_at: Date.now() / 1000 };
    const next = { ...c, messages: [...c.messages, message], leaf: message.id };
    update(next);
    // The question is kept before it is answered: a tab closed in mid-answer loses no words of the user's.
    if (await store([message], message.id)) answer(pathOf(current.current));
  }
  const regenerate = (message) => {
    const c = { ...current.current, leaf: message.role === "user" ? message.id : message.parent };
    update(c);
    answer(pathOf(c));
  };
  const goOn = (message) => answer(pathOf(current.current), message);
  const choose = (id) => { const c = current.current; const leaf = tipOf(c, id); update({ ...c, leaf }); if (c.id) own("PATCH", `/conversations/${c.id}`, { revision: c.revision, leaf }).then((r) => update({ ...current.current, revision: r.revision })).catch(complain); };

  const patch = (row, change) => own("PATCH", `/conversations/${row.id}`, { revision: row.revision, ...change }).then((r) => { if (current.current.id === row.id) update({ ...current.current, revision: r.revision, title: r.title }); refreshList(); }).catch(complain);
  const remove = (row) => own("DELETE", `/conversations/${row.id}`).then(() => {
    refreshList();
    if (current.current.id === row.id) go("chat");
    toast(t("removed", { title: row.title || t("untitled") }), { action: { label: t("undo"), run: () => own("POST", `/conversations/${row.id}/restore`).then(() => refreshList()).catch(complain) } });
  }).catch(complain);

  const path = pathOf(conversation);
  const shown = live ? path.map((m) => (m.id === live.id ? { ...m, content: live.text, reasoning: live.reasoning } : m)) : path;
  const used = [...path].reverse().find((m) => m.usage)?.usage?.total_tokens;
  const row = models.find((m) => m.model === model);

  return html`<div class="chat">
    <${ConversationList} list=${list} search=${search} setSearch=${setSearch} open=${listOpen} at=${conversation.id} onOpen=${(id) => { go(id ? `chat?id=${id}` : "chat"); setListOpen(false); }} onRename=${setRenaming} onRemove=${remove} onPin=${(r) => patch(r, { pinned: !r.pinned })} onImported=${() => refreshList()} />
    <section class="talk">
      <div class="bar"><${IconButton} icon="chat" label=${t("conversations")} class="icon-button narrow-only" onClick=${() => setListOpen(!listOpen)} />
        <${ModelPicker} models=${models} model=${model} onChange=${(value) => setSettings({ ...settings, model: value })} />
        <span class="grow"></span>
        ${used > 0 && row?.context > 0 && html`<span class="quiet context">${t("context", { used, total: row.row?.info?.context || Math.min(row.context, 4096) })}</span>`}
        <${IconButton} icon="compare" label=${t("compare")} onClick=${() => go("compare")} />
        <${Menu} label=${t("copy")} icon="copy" items=${[[t("copyCurl"), () => copyText(asCurl(requestBody(path))).then(() => toast(t("copied")))], [t("copyPython"), () => copyText(asPython(requestBody(path))).then(() => toast(t("copied")))]]} />
        <${IconButton} icon="gear" label=${t("settings")} aria-expanded=${panel} onClick=${() => setPanel(!panel)} /></div>
      <${Log} path=${shown} live=${live} conversation=${conversation} onEdit=${(m, text) => send(text, m.parent)} onRegenerate=${regenerate} onGoOn=${goOn} onChoose=${choose} onTry=${send} empty=${!path.length} model=${model} />
      <${Composer} busy=${Boolean(live)} ready=${Boolean(model)} onSend=${(text) => send(text)} onStop=${() => live?.controller.abort()} />
    </section>
    ${panel && html`<${SettingsPanel} settings=${settings} setSettings=${setSettings} onClose=${() => setPanel(false)} />`}
    ${renaming && html`<${Rename} row=${renaming} onClose=${() => setRenaming(null)} onSave=${(title) => { patch(renaming, { title }); setRenaming(null); }} />`}
    <div class="hidden" role="status">${announcement}</div></div>`;
}

function ConversationList({ list, search, setSearch, open, at, onOpen, onRename, onRemove, onPin, onImported }) {
  const file = useRef();
  const exported = (row) => own("GET", `/conversations/export?id=${row.id}`);
  const importFile = async (e) => { try { await own("POST", "/conversations/import", JSON.parse(await e.target.files[0].text())); onImported(); } catch (error) { complain(error); } e.target.value = ""; };
  return html`<aside class=${`list ${open ? "is-open" : ""}`} aria-label=${t("conversations")}>
    <div class="list-head"><button type="button" class="main" onClick=${() => onOpen(null)}><${Icon} name="plus" /> ${t("newChat")}</button>
      <${Menu} label=${t("importJson")} icon="more" items=${[[t("importJson"), () => file.current.click()]]} /><input ref=${file} type="file" accept="application/json" hidden onChange=${importFile} /></div>
    <input type="search" aria-label=${t("searchChats")} placeholder=${t("searchChats")} value=${search} onInput=${(e) => setSearch(e.target.value)} />
    ${list.length ? html`<ul>${list.map((row) => html`<li key=${row.id} class=${row.id === at ? "is-current" : ""}><a href=${`/ui/chat?id=${row.id}`} aria-current=${row.id === at ? "true" : undefined} onClick=${(e) => { e.preventDefault(); onOpen(row.id); }}>${row.pinned && html`<${Icon} name="pin" />`}<span>${row.title || t("untitled")}</span>${row.snippet && html`<small>${row.snippet}</small>`}</a>
      <${Menu} label=${t("menu")} icon="more" items=${[[t("rename"), () => onRename(row)], [row.pinned ? t("unpin") : t("pin"), () => onPin(row)], [t("exportJson"), () => exported(row).then((d) => download(`${row.id}.json`, JSON.stringify(d, null, 1)))], [t("exportMarkdown"), () => exported(row).then((d) => download(`${row.id}.md`, asMarkdown(d.conversations[0])))], [t("remove"), () => onRemove(row)]]} /></li>`)}</ul>` : html`<${Empty} text=${t("noChats")} />`}</aside>`;
}

function ModelPicker({ models, model, onChange }) {
  const [need, setNeed] = useState("");
  const [naming, setNaming] = useState(false);
  const chosen = models.find((m) => m.model === model);
  useEffect(() => {
    setNeed("");
    if (model && !chosen?.row && !isRemote(model)) own("POST", "/plan", { model }).then((p) => setNeed(t("needs", { size: bytes(p.total_bytes) }))).catch(() => {});
  }, [model, Boolean(chosen?.row), language.value]);
  const state = isRemote(model) ? t("remote") : chosen?.row ? `${t("loaded")}, ${bytes(chosen.row.rss_bytes)}` : `${t("notLoaded")}${need && `, ${need}`}`;
  const choose = (value) => (value === "" ? setNaming(true) : onChange(value));
  return html`<label class="picker"><span class="hidden">${t("model")}</span><select aria-label=${t("model")} value=${model} onChange=${(e) => choose(e.target.value)}>${!models.length && html`<option value="-">${t("noModels")}</option>`}${models.map((m) => html`<option value=${m.model}>${m.model}</option>`)}<option value="">${t("remoteModel")}</option></select>
    ${models.length > 0 && html`<span class=${`quiet state ${chosen?.row ? "is-on" : ""}`}>${state}</span>`}</label>
    ${naming && html`<${Rename} row=${{ title: "openai:" }} label=${t("remoteName")} onClose=${() => setNaming(false)} onSave=${(name) => { setNaming(false); onChange(isRemote(name) ? name : `openai:${name}`); }} />`}`;
}

function Log({ path, live, conversation, onEdit, onRegenerate, onGoOn, onChoose, onTry, empty, model }) {
  const box = useRef(), stick = useRef(true);
  useEffect(() => { const e = box.current; if (stick.current) e.scrollTop = e.scrollHeight; });
  const scrolled = () => { const e = box.current; stick.current = e.scrollHeight - e.scrollTop - e.clientHeight < 60; };
  return html`<div class="log" ref=${box} onScroll=${scrolled} tabindex="0" aria-label=${t("floor1")} role="region">
    ${empty ? html`<div class="welcome"><h2>${t("welcome")}</h2><p>${isRemote(model) ? t("welcomeRemote") : t("welcome1")}</p>${(!model || model.startsWith("starter:")) && html`<p>${t("welcome2")}</p>`}<p>${t("welcome3")}</p><div class="tries">${["try1", "try2", "try3"].map((k) => html`<button type="button" lang="en" onClick=${() => onTry(t(k))}>${t(k)}</button>`)}</div></div>`
    : path.map((m) => html`<${Message} key=${m.id} message=${m} live=${live?.id === m.id ? live : null} busy=${Boolean(live)} tip=${conversation.leaf === m.id} others=${siblings(conversation, m)} onEdit=${onEdit} onRegenerate=${onRegenerate} onGoOn=${onGoOn} onChoose=${onChoose} />`)}</div>`;
}

function Message({ message, live, busy, tip, others, onEdit, onRegenerate, onGoOn, onChoose }) {
  const text = useRef();
  const [editing, setEditing] = useState(false);
  const mine = message.role === "user";
  useEffect(() => {
    if (mine) return undefined;
    let current = true;
    markdown().then(({ render }) => {
      if (current && text.current) render(text.current, message.content, Boolean(live), { copy: t("copy"), copied: t("copied") });
    });
    return () => { current = false; };
  }, [message.content, Boolean(live), editing, language.value]);
  const at = others.findIndex((m) => m.id === message.id);
  const d = message.data || {};
  return html`<article class=${`message ${mine ? "is-mine" : ""}`} aria-label=${mine ? t("you") : t("assistant")}>
    ${message.reasoning && html`<details><summary>${t("thinking")}</summary><p class="thinking">${message.reasoning}</p></details>`}
    ${editing ? html`<${Edit} text=${message.content} onCancel=${() => setEditing(false)} onSave=${(value) => { setEditing(false); onEdit(message, value); }} />`
    : mine ? html`<p class="plain">${message.content}</p>` : html`<div class="markdown" ref=${text}></div>`}
    ${isShortened(message.content) && html`<p class="quiet">${t("shortened")}</p>`}
    ${live && !message.content && html`<p class="quiet">${live.first ? t("answering") : t("starting")}</p>`}
    ${message.finish_reason === "error" && html`<p class="bad">${t("interrupted")}</p>`}
    <footer>${others.length > 1 && html`<span class="branches"><${IconButton} icon="left" label=${t("previous")} disabled=${at === 0 || busy} onClick=${() => onChoose(others[at - 1].id)} /><span>${t("version", { i: at + 1, n: others.length })}</span><${IconButton} icon="right" label=${t("next")} disabled=${at === others.length - 1 || busy} onClick=${() => onChoose(others[at + 1].id)} /></span>`}
      ${!live && !editing && html`<${IconButton} icon="copy" label=${t("copy")} onClick=${() => copyText(message.content).then(() => toast(t("copied")))} />`}
      ${!busy && mine && !editing && html`<${IconButton} icon="edit" label=${t("edit")} onClick=${() => setEditing(true)} />`}
      ${!busy && (!mine || tip) && html`<${IconButton} icon="again" label=${t("regenerate")} onClick=${() => onRegenerate(message)} />`}
      ${!busy && !mine && ["length", "cancelled", "error"].includes(message.finish_reason) && message.content && html`<button type="button" onClick=${() => onGoOn(message)}>${t("goOn")}</button>`}
      ${!mine && !live && d.tokens_per_second > 0 && html`<span class="quiet figures">${t("speed", { tps: d.tokens_per_second.toFixed(1) })} · ${t("firstToken", { s: d.first_token_seconds.toFixed(2) })}${message.usage ? ` · ${t("tokens", { n: message.usage.completion_tokens })}` : ""}</span>`}</footer></article>`;
}

function Edit({ text, onSave, onCancel }) {
  const area = useRef();
  useEffect(() => { area.current.focus(); }, []);
  return html`<div class="editing"><textarea ref=${area} aria-label=${t("edit")} rows="4" onKeyDown=${(e) => { if (e.key === "Escape") onCancel(); }}>${text}</textarea><div><button type="button" onClick=${onCancel}>${t("cancel")}</button><button type="button" class="main" onClick=${() => onSave(area.current.value)}>${t("send")}</button></div></div>`;
}

function Composer({ busy, ready, onSend, onStop }) {
  const area = useRef(), file = useRef();
  const [text, setText] = useState(() => sessionStorage.getItem("ninestory.draft") || "");
  useEffect(() => { sessionStorage.setItem("ninestory.draft", text); area.current.style.height = "auto"; area.current.style.height = `${Math.min(area.current.scrollHeight, 220)}px`; }, [text]);
  useEffect(() => { area.current.focus(); }, []);
  const submit = () => { if (busy || !ready || !text.trim()) return; setText(""); onSend(text); };
  const keys = (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); submit(); }
    if (e.key === "Escape" && busy) onStop();
  };
  const attach = async (e) => { const f = e.target.files[0]; if (f) setText(`${text}${text && "\n\n"}${f.name}:\n\`\`\`\n${(await f.text()).slice(0, 200000)}\n\`\`\`\n`); e.target.value = ""; };
  return html`<form class="composer" onSubmit=${(e) => { e.preventDefault(); submit(); }}>
    <${IconButton} icon="clip" label=${t("attach")} onClick=${() => file.current.click()} /><input ref=${file} type="file" accept="text/*,.md,.json,.csv,.py,.js,.toml,.yaml" hidden onChange=${attach} />
    <textarea ref=${area} rows="1" aria-label=${t("message")} placeholder=${t("placeholder")} value=${text} onInput=${(e) => setText(e.target.value)} onKeyDown=${keys}></textarea>
    ${busy ? html`<button type="button" class="main" aria-label=${t("stop")} title=${t("stop")} onClick=${onStop}><${Icon} name="stop" /></button>` : html`<button class="main" aria-label=${t("send")} title=${t("send")} disabled=${!ready || !text.trim()}><${Icon} name="send" /></button>`}</form>`;
}

function SettingsPanel({ settings, setSettings, onClose }) {
  const [presets, setPresets] = useState([]);
  const [naming, setNaming] = useState(false);
  const refresh = () => own("GET", "/presets?floor=chat").then((r) => setPresets(r.data)).catch(complain);
  useEffect(() => { refresh(); }, []);
  const set = (name, value) => setSettings({ ...settings, [name]: value });
  const { system = "", model, ...rest } = settings;
  const keep = async (name) => { try { await own("POST", "/presets", { name, floor: "chat", system, settings: rest }); setNaming(false); refresh(); } catch (e) { complain(e); } };
  return html`<aside class="panel" aria-label=${t("settings")}><header><h2>${t("settings")}</h2><${IconButton} icon="close" label=${t("close")} onClick=${onClose} /></header>
    ${presets.length > 0 && html`<${Field} id="preset" label=${t("presets")}><select id="preset" onChange=${(e) => { const p = presets.find((x) => x.id === e.target.value); if (p) setSettings({ ...p.settings, system: p.system, model }); }}><option value=""></option>${presets.map((p) => html`<option value=${p.id}>${p.name}</option>`)}</select><//>`}
    <${Field} id="system" label=${t("systemPrompt")} help=${t("systemHelp")}><textarea id="system" rows="4" aria-describedby="system-help" value=${system} onInput=${(e) => set("system", e.target.value)}></textarea><//>
    ${NUMBERS.map(([name, min, max, step]) => html`<${Field} id=${name} label=${t(name)} help=${t(`${name}Help`)}><input id=${name} type="number" min=${min} max=${max} step=${step} aria-describedby=${`${name}-help`} value=${settings[name] ?? ""} onInput=${(e) => set(name, e.target.value)} /><//>`)}
    <div class="row"><button type="button" onClick=${() => setSettings({ model })}>${t("reset")}</button><button type="button" onClick=${() => setNaming(true)}>${t("savePreset")}</button></div>
    ${naming && html`<${Rename} row=${{ title: "" }} label=${t("presetName")} onClose=${() => setNaming(false)} onSave=${keep} />`}</aside>`;
}

function Rename({ row, label, onClose, onSave }) {
  const submit = (e) => { e.preventDefault(); onSave(new FormData(e.target).get("title")); };
  return html`<${Dialog} title=${label || t("rename")} onClose=${onClose}><form onSubmit=${submit}><input name="title" aria-label=${label || t("rename")} value=${row.title} maxlength="200" required autofocus /><div class="row"><button type="button" onClick=${onClose}>${t("cancel")}</button><button class="main">${t("save")}</button></div></form><//>`;
}

function download(name, text) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([text])), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}
const asMarkdown = (c) => `# ${c.title}\n\n${pathOf(c).map((m) => `**${m.role}**\n\n${m.content}`).join("\n\n")}\n`;
const asCurl = (body) => `curl ${location.origin}/v1/chat/completions -H 'Content-Type: application/json' -d '${JSON.stringify({ ...body, stream: false, stream_options: undefined }).replaceAll("'", "'\\''")}'`;
const asPython = ({ model, messages, stream, stream_options, ...rest }) => `from openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key="none")\nreply = client.chat.completions.create(\n    model=${JSON.stringify(model)},\n    messages=${JSON.stringify(messages)},\n${Object.entries(rest).map(([k, v]) => (["top_k", "min_p", "repetition_penalty"].includes(k) ? `    extra_body={"${k}": ${v}},\n` : `    ${k}=${JSON.stringify(v)},\n`)).join("")})\nprint(reply.choices[0].message.content)\n`;
