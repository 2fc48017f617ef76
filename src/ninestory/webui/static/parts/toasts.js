// Short messages at the lower right; the server's errors with what to do about them.
import { signal } from "../vendor/signals.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";
import { language, t, translated } from "../i18n.js";

export const toasts = signal([]);
let next = 1;

export function toast(text, { hint = "", original = "", action = null, error = false } = {}) {
  const entry = { id: next++, text, hint, original, action, error };
  toasts.value = [...toasts.value.slice(-3), entry];
  setTimeout(() => dismiss(entry.id), error ? 12000 : 6000);
}
const dismiss = (id) => { toasts.value = toasts.value.filter((entry) => entry.id !== id); };

/** An error in the page's language: its code's words, the server's hint, and what the server said as it said it. */
export function told({ code = "", status, message, hint }) {
  const known = code.startsWith("damaged_") ? "error_damaged_file" : `error_${code}`;
  const words = language.value === "en" ? "" : translated(known) || translated(`status_${status}`) || t("refused");
  return { text: words || message, hint, original: words && message };
}

export function complain(error) {
  if (error.name === "AbortError") return;
  if (!error.status) { toast(t("offline"), { error: true }); return; }
  const { text, ...more } = told(error);
  toast(text, { ...more, error: true });
}

export function Toasts() {
  return html`<div class="toasts" role="status">${toasts.value.map((e) =>
    html`<div class=${`toast ${e.error ? "is-error" : ""}`} key=${e.id}>
      <div><strong>${e.text}</strong>${e.hint && html`<p>${e.hint}</p>`}
        ${e.original && html`<p lang="en">${e.original}</p>`}</div>
      ${e.action && html`<button type="button" onClick=${() => { dismiss(e.id); e.action.run(); }}>${e.action.label}
        </button>`}
      <${IconButton} icon="close" label=${t("close")} onClick=${() => dismiss(e.id)} /></div>`)}</div>`;
}
