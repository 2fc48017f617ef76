// The small set of parts that every view is made of.
import { h } from "./vendor/preact.js";
import { useEffect, useLayoutEffect, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";
import { signal } from "./vendor/signals.js";
import { t } from "./i18n.js";

export const html = htm.bind(h);

const PATHS = {
  chat: "M4 5h16v11H9l-5 4z", documents: "M6 3h9l4 4v14H6zM9 11h7M9 15h7", draw: "M4 20l4-1 11-11-3-3L5 16zM14 7l3 3", look: "M2 12s4-6 10-6 10 6 10 6-4 6-10 6S2 12 2 12zM12 9a3 3 0 100 6 3 3 0 000-6",
  listen: "M12 3a3 3 0 013 3v5a3 3 0 01-6 0V6a3 3 0 013-3zM6 11a6 6 0 0012 0M12 17v4", speak: "M4 9v6h4l5 4V5L8 9zM16 9a4 4 0 010 6M18 6a8 8 0 010 12", agents: "M12 3v4M7 7h10v8H7zM9 11h1M14 11h1M5 19h14M8 15v4M16 15v4", tune: "M4 7h10M18 7h2M4 17h2M10 17h10M14 5v4M8 15v4", fields: "M4 20V10l8-6 8 6v10zM10 20v-6h4v6",
  models: "M12 3l9 5-9 5-9-5zM3 13l9 5 9-5", jobs: "M5 4h14v5H5zM5 13h14v7H5z", guides: "M4 5c3-1 6-1 8 1 2-2 5-2 8-1v14c-3-1-6-1-8 1-2-2-5-2-8-1zM12 6v14", system: "M4 5h16v11H4zM9 20h6M12 16v4",
  compare: "M4 5h7v14H4zM13 5h7v14h-7z", menu: "M4 7h16M4 12h16M4 17h16", close: "M6 6l12 12M18 6L6 18", plus: "M12 5v14M5 12h14", more: "M6 12h.01M12 12h.01M18 12h.01", send: "M4 12l16-8-6 16-3-7z", stop: "M7 7h10v10H7z", edit: "M4 20l4-1 11-11-3-3L5 16z", again: "M20 11a8 8 0 10-2 6M20 5v6h-6", copy: "M9 9h11v11H9zM5 15H4V4h11v1", on: "M5 12h14M13 6l6 6-6 6", left: "M14 6l-6 6 6 6", right: "M10 6l6 6-6 6", gear: "M12 9a3 3 0 100 6 3 3 0 000-6zM12 2v4M12 18v4M2 12h4M18 12h4M5 5l3 3M16 16l3 3M19 5l-3 3M8 16l-3 3", pin: "M9 3h6l-1 7 4 4H6l4-4zM12 14v7", clip: "M8 12l6-6a3 3 0 014 4l-8 8a5 5 0 01-7-7l7-7",
};
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;

export const IconButton = ({ icon, label, ...rest }) => html`<button type="button" class="icon-button" aria-label=${label} title=${label} ...${rest}><${Icon} name=${icon} /></button>`;

/** A named field with one sentence of explanation. */
export function Field({ id, label, help, children }) {
  return html`<div class="field"><label for=${id}>${label}</label>${children}${help && html`<p class="help" id=${`${id}-help`}>${help}</p>`}</div>`;
}

/** A button that opens a list of actions; closes on Escape, on a choice and on a click elsewhere. */
export function Menu({ label, icon, items }) {
  const [open, setOpen] = useState(false);
  const root = useRef();
  useLayoutEffect(() => {
    if (!open) return undefined;
    const away = (e) => { if (!root.current.contains(e.target)) setOpen(false); };
    document.addEventListener("pointerdown", away);
    root.current.querySelector("[role=menuitem]")?.focus();
    return () => document.removeEventListener("pointerdown", away);
  }, [open]);
  const keys = (e) => {
    const all = [...root.current.querySelectorAll("[role=menuitem]")], at = all.indexOf(document.activeElement);
    if (e.key === "Escape") { setOpen(false); root.current.firstChild.focus(); e.stopPropagation(); }
    if (e.key === "ArrowDown") { all[(at + 1) % all.length]?.focus(); e.preventDefault(); }
    if (e.key === "ArrowUp") { all[(at - 1 + all.length) % all.length]?.focus(); e.preventDefault(); }
  };
  return html`<div class="menu" ref=${root} onKeyDown=${open ? keys : undefined}>
    <button type="button" class="icon-button" aria-haspopup="menu" aria-expanded=${open} aria-label=${label} title=${label} onClick=${() => setOpen(!open)}><${Icon} name=${icon} /></button>
    ${open && html`<div role="menu" aria-label=${label}>${items.filter(Boolean).map(([text, action]) => html`<button type="button" role="menuitem" onClick=${() => { setOpen(false); action(); }}>${text}</button>`)}</div>`}
  </div>`;
}

/** A modal dialog (the browser's own: focus stays inside, Escape closes). */
export function Dialog({ title, onClose, children }) {
  const ref = useRef();
  useEffect(() => { ref.current.showModal(); return () => ref.current?.close(); }, []);
  return html`<dialog ref=${ref} onClose=${onClose} onCancel=${onClose} aria-label=${title}><header><h2>${title}</h2><${IconButton} icon="close" label=${t("close")} onClick=${onClose} /></header>${children}</dialog>`;
}

export function Table({ caption, columns, rows }) {
  if (!rows.length) return html`<${Empty} text=${t("empty")} />`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table><caption class="hidden">${caption}</caption><thead><tr>${columns.map((c) => html`<th scope="col">${c || html`<span class="hidden">${t("actions")}</span>`}</th>`)}</tr></thead><tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>`;
}

export const Empty = ({ text, children }) => html`<div class="empty"><p>${text}</p>${children}</div>`;
export const Progress = ({ label, done, total }) => html`<progress aria-label=${label} max=${total || undefined} value=${total ? done : undefined}></progress>`;

// --- toasts -----------------------------------------------------------------------------------------------------
export const toasts = signal([]);
let next = 1;
export function toast(text, { hint = "", action = null, error = false } = {}) {
  const entry = { id: next++, text, hint, action, error };
  toasts.value = [...toasts.value.slice(-3), entry];
  setTimeout(() => dismiss(entry.id), error ? 12000 : 6000);
}
const dismiss = (id) => { toasts.value = toasts.value.filter((entry) => entry.id !== id); };
export const complain = (error) => { if (error.name !== "AbortError") toast(error.status ? error.message : t("offline"), { hint: error.hint, error: true }); };

export function Toasts() {
  return html`<div class="toasts" role="status">${toasts.value.map((e) => html`<div class=${`toast ${e.error ? "is-error" : ""}`} key=${e.id}>
    <div><strong>${e.text}</strong>${e.hint && html`<p>${e.hint}</p>`}</div>
    ${e.action && html`<button type="button" onClick=${() => { dismiss(e.id); e.action.run(); }}>${e.action.label}</button>`}
    <${IconButton} icon="close" label=${t("close")} onClick=${() => dismiss(e.id)} /></div>`)}</div>`;
}

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB"];
  let i = 0;
  for (; n >= 1000 && i < 3; i++) n /= 1000;
  return `${n.toFixed(i > 1 ? 1 : 0)} ${units[i]}`;
}
export const clock = (seconds) => new Date(seconds * 1000).toLocaleString(document.documentElement.lang, { dateStyle: "short", timeStyle: "short" });

/** The longest line of a text that is shown whole. */
export const LONGEST_LINE = 20000;
/** Whether the end of a line is left out, because it would stall the page. */
export const isShortened = (text) => text.length >= LONGEST_LINE && text.split("\n").some((line) => line.length > LONGEST_LINE);

/** The clipboard exists only on this machine or over HTTPS; elsewhere the old way. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
