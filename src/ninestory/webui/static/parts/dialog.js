// Modal dialogs: the browser's own, so focus stays inside and Escape closes.
import { useEffect, useRef } from "../vendor/hooks.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";
import { t } from "../i18n.js";

/** `wide`: as much of the window as there is, for what is looked at. */
export function Dialog({ title, wide = false, onClose, children }) {
  const ref = useRef();
  useEffect(() => { ref.current.showModal(); return () => ref.current?.close(); }, []);
  return html`<dialog ref=${ref} class=${wide ? "is-wide" : ""} onClose=${onClose} onCancel=${onClose}
    aria-label=${title}>
    <header><h2>${title}</h2><${IconButton} icon="close" label=${t("close")} onClick=${onClose} /></header>
    ${children}</dialog>`;
}

/** Asks for one line of text: a name, a title. */
export function Ask({ label, value = "", onClose, onSave }) {
  const submit = (e) => { e.preventDefault(); onSave(new FormData(e.target).get("value")); };
  return html`<${Dialog} title=${label} onClose=${onClose}><form onSubmit=${submit}>
    <input name="value" aria-label=${label} value=${value} maxlength="200" required autofocus />
    <div class="row"><button type="button" onClick=${onClose}>${t("cancel")}</button>
      <button class="main">${t("save")}</button></div></form><//>`;
}

/** Says what will be lost, and asks before it is. */
export function Confirm({ title, text, action, onClose, onConfirm }) {
  return html`<${Dialog} title=${title} onClose=${onClose}><p>${text}</p>
    <div class="row"><button type="button" onClick=${onClose}>${t("cancel")}</button>
      <button type="button" class="main" onClick=${onConfirm}>${action}</button></div><//>`;
}
