// The prompts that one keeps: found, written, tried with values, and taken into the chat or the workbench.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Empty, Field, Icon, Name, complain, toast } from "../../parts.js";
import { t, inLanguage } from "./i18n.js";
import { draft } from "../../floors/chat/composer.js";
import { EXAMPLES } from "./examples.js";
import { deletePrompt, emptyPrompt, listPrompts, storePrompt } from "./store.js";
import { fill, variablesOf } from "./template.js";
import { addVersion, loadBench } from "./bench.js";

export function Library({ go }) {
  const [prompts, setPrompts] = useState([]);
  const [open, setOpen] = useState(null);
  const [search, setSearch] = useState("");
  const refresh = () => listPrompts().then(setPrompts).catch(complain);
  useEffect(() => { refresh(); }, []);
  const wanted = search.toLowerCase();
  const found = prompts.filter((p) => `${p.name}\n${p.system}\n${p.text}`.toLowerCase().includes(wanted));
  const begin = (example) => {
    const [name, text] = inLanguage(example);
    setOpen({ ...emptyPrompt(), name, text });
  };
  const save = async (prompt) => {
    try { setOpen(await storePrompt(prompt)); toast(t("kept")); } catch (e) {
      if (e.code !== "stale_revision") { complain(e); return; }
      setOpen((await listPrompts()).find((p) => p.id === prompt.id) || null);
      toast(t("discard"), { error: true });
    }
    refresh();
  };
  const remove = (prompt) => deletePrompt(prompt)
    .then(() => {
      const undo = () => storePrompt({ ...prompt, id: null }).then(refresh).catch(complain);
      toast(t("promptGone"), { action: { label: t("undo"), run: undo } });
      setOpen(null);
      refresh();
    }).catch(complain);
  return html`<div class="library"><aside aria-label=${t("library")}>
      <button type="button" class="main" onClick=${() => setOpen(emptyPrompt())}><${Icon}
        name="plus" /> ${t("newPrompt")}</button>
      <input type="search" aria-label=${t("searchPrompts")} placeholder=${t("searchPrompts")} value=${search}
        onInput=${(e) => setSearch(e.target.value)} />
      <ul class="names">${found.map((p) => html`<li key=${p.id}><button type="button" aria-pressed=${p.id === open?.id}
        translate=${false} onClick=${() => setOpen(p)}>${p.name}</button></li>`)}</ul>
      ${prompts.length > 0 && found.length === 0 && html`<p class="quiet">${t("nothingFound")}</p>`}
      <h3>${t("examples")}</h3>
      <ul class="names">${EXAMPLES.map((example) => html`<li key=${example.en[0]}><button type="button"
        onClick=${() => begin(example)}>${inLanguage(example)[0]}</button></li>`)}</ul></aside>
    ${open ? html`<${Editor} key=${open.id || open.name} prompt=${open} onChange=${setOpen} onSave=${save}
      onRemove=${remove} go=${go} />`
      : html`<${Empty} text=${t("noPrompts")} />`}</div>`;
}

function Editor({ prompt, onChange, onSave, onRemove, go }) {
  const set = (changes) => onChange({ ...prompt, ...changes });
  const names = variablesOf(prompt.system, prompt.text);
  const submit = (e) => { e.preventDefault(); onSave(prompt); };
  const tryIt = () => { draft.value = fill(prompt.text, prompt.values); go("chat"); };
  const compare = async () => {
    try { await loadBench(); } catch (e) { complain(e); return; }
    addVersion(prompt);
    go("prompts?tab=workbench");
  };
  return html`<form class="editor" onSubmit=${submit}>
    <${Field} id="prompt-name" label=${t("promptName")}><input id="prompt-name" value=${prompt.name} required
      maxlength="100"
      onInput=${(e) => set({ name: e.target.value })} /><//>
    <${Field} id="prompt-system" label=${t("systemPrompt")}><textarea id="prompt-system" rows="2" value=${prompt.system}
      onInput=${(e) => set({ system: e.target.value })}></textarea><//>
    <${Field} id="prompt-text" label=${t("promptText")} help=${t("promptTextHelp")}><textarea id="prompt-text"
      rows="6" required
      aria-describedby="prompt-text-help" value=${prompt.text} onInput=${(e) => set({ text: e.target.value })}>
        </textarea><//>
    ${names.length > 0 && html`<fieldset><legend>${t("values")}</legend>${names.map((name) => html`
      <${Field} key=${name} id=${`value-${name}`} label=${html`<${Name}>${name}<//>`}>
        <textarea id=${`value-${name}`} rows="2"
        value=${prompt.values[name] || ""}
          onInput=${(e) => set({ values: { ...prompt.values, [name]: e.target.value } })}>
        </textarea><//>`)}</fieldset>`}
    <div class="row"><button class="main">${t("save")}</button>
      <button type="button" disabled=${!prompt.text.trim()} onClick=${tryIt}>${t("tryInChat")}</button>
      <button type="button" disabled=${!prompt.text.trim()} onClick=${compare}>${t("toWorkbench")}</button>
      ${prompt.id && html`<button type="button" onClick=${() => onRemove(prompt)}>${t("remove")}</button>`}</div>
        </form>`;
}
