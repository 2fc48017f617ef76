// The small set of parts that every view is made of; each view imports them from here.
import { html } from "./parts/html.js";
import { t } from "./i18n.js";

export { html };
export { Icon, IconButton } from "./parts/icons.js";
export { Menu } from "./parts/menu.js";
export { Dialog, Ask, Confirm } from "./parts/dialog.js";
export { Devices, usesCards } from "./parts/devices.js";
export { Tabs } from "./parts/tabs.js";
export { toast, complain, told, Toasts } from "./parts/toasts.js";
export { Drop, FilePicker, readTexts, TEXT_FILES } from "./parts/files.js";
export { bytes, clock, copyText, duration, download, isShortened, LONGEST_LINE } from "./parts/format.js";

/** Text that is the same in every language: a model's name, what a user wrote. Page translators leave it alone. */
export const Name = ({ children }) => html`<span translate=${false}>${children}</span>`;

/** A named field with one sentence of explanation. */
export function Field({ id, label, help, children }) {
  return html`<div class="field"><label for=${id}>${label}</label>${children}
    ${help && html`<p class="help" id=${`${id}-help`}>${help}</p>`}</div>`;
}

/** `columns`: titles ("" for a column of actions); `rows`: lists of cells. */
export function Table({ caption, columns, rows, empty }) {
  if (!rows.length) return html`<${Empty} text=${empty || t("empty")} />`;
  const named = (title) => title || html`<span class="hidden">${t("actions")}</span>`;
  const cells = (row) => row.map((cell, i) => html`<td data-label=${columns[i]}>${cell}</td>`); // a phone shows no head
  const head = columns.map((title) => html`<th scope="col">${named(title)}</th>`);
  const body = rows.map((row) => html`<tr>${cells(row)}</tr>`);
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table
    class="stacks">    <caption class="hidden">${caption}</caption><thead><tr>${head}</tr></thead><tbody>${body}</tbody></table></div>`;
}

export const Empty = ({ text, children }) => html`<div class="empty"><p>${text}</p>${children}</div>`;

export const Progress = ({ label, done, total }) =>
  html`<progress aria-label=${label} max=${total || undefined} value=${total ? done : undefined}></progress>`;
