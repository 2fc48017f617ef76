// Where one writes: a draft that outlives a reload, attached text files, and a key that sends unless one is composing.
import { useEffect, useRef } from "../../vendor/hooks.js";
import { signal } from "../../vendor/signals.js";
import { html, Icon, IconButton, Name, TEXT_FILES, bytes, readTexts } from "../../parts.js";
import { t } from "./i18n.js";

const TALLEST_PX = 220;
/** What is written and not sent yet; other views may put a text here. */
export const draft = signal(sessionStorage.getItem("ninestory.draft") || "");
/** The text files that go with it: {name, text}. */
export const attached = signal([]);
draft.subscribe((text) => sessionStorage.setItem("ninestory.draft", text));

export const attach = async (files) => { attached.value = [...attached.value, ...(await readTexts(files))]; };

/** True for the Enter that ends a composition (Chinese and Japanese input), which is not meant to send. */
export const isComposing = (e) => e.isComposing || e.keyCode === 229;

export function Composer({ busy, ready, onSend, onStop }) {
  const area = useRef();
  const file = useRef();
  const text = draft.value;
  const files = attached.value;
  useEffect(() => {
    area.current.style.height = "auto";
    area.current.style.height = `${Math.min(area.current.scrollHeight, TALLEST_PX)}px`;
  }, [text]);
  useEffect(() => { area.current.focus(); }, []);
  const canSend = ready && !busy && (text.trim() || files.length > 0);
  const submit = (e) => {
    e.preventDefault();
    if (!canSend) return;
    draft.value = "";
    attached.value = [];
    onSend(text, files);
  };
  const keys = (e) => {
    if (e.key === "Enter" && !e.shiftKey && !isComposing(e)) submit(e);
    if (e.key === "Escape" && busy) onStop();
  };
  const chosen = (e) => { attach([...e.target.files]); e.target.value = ""; };
  return html`<form class="composer" onSubmit=${submit}><div class="box">
    ${files.length > 0 && html`<ul class="files" aria-label=${t("attachments")}>${files.map((f, i) => html`<li key=${i}>
      <${Name}>${f.name}<//> <span class="quiet">${bytes(f.text.length)}</span>
      <${IconButton} icon="close" label=${t("removeFile", { name: f.name })}
        onClick=${() => { attached.value = files.filter((_, k) => k !== i); }} /></li>`)}</ul>`}
    <${IconButton} icon="clip" label=${t("attach")} onClick=${() => file.current.click()} />
    <input ref=${file} type="file" accept=${TEXT_FILES} aria-label=${t("attach")} multiple hidden onChange=${chosen} />
    <textarea ref=${area} rows="1" aria-label=${t("message")} placeholder=${t("placeholder")} value=${text}
      onInput=${(e) => { draft.value = e.target.value; }} onKeyDown=${keys}></textarea>
    ${busy
      ? html`<button type="button" class="main" aria-label=${t("stop")} title=${t("stop")} onClick=${onStop}>
          <${Icon} name="stop" /></button>`
      : html`<button class="main" aria-label=${t("send")} title=${t("send")} disabled=${!canSend}>
          <${Icon} name="send" /></button>`}</div></form>`;
}
