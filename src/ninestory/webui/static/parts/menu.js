// A button that opens a list of actions; closes on Escape, on a choice and on a click elsewhere.
import { useLayoutEffect, useRef, useState } from "../vendor/hooks.js";
import { html } from "./html.js";
import { Icon } from "./icons.js";

/** `items`: [text, action] pairs; what is falsy is left out. */
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
    const all = [...root.current.querySelectorAll("[role=menuitem]")];
    const at = all.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (step) { all[(at + step + all.length) % all.length]?.focus(); e.preventDefault(); }
    if (e.key === "Tab") setOpen(false);
    if (e.key === "Escape") { setOpen(false); root.current.firstChild.focus(); e.stopPropagation(); }
  };
  const choose = (action) => { setOpen(false); root.current.firstChild.focus(); action(); };
  return html`<div class="menu" ref=${root} onKeyDown=${open ? keys : undefined}>
    <button type="button" class="icon-button" aria-haspopup="menu" aria-expanded=${open} aria-label=${label}
      title=${label} onClick=${() => setOpen(!open)}><${Icon} name=${icon} /></button>
    ${open && html`<div role="menu" aria-label=${label}>${items.filter(Boolean).map(([text, action]) =>
      html`<button type="button" role="menuitem" onClick=${() => choose(action)}>${text}</button>`)}</div>`}
  </div>`;
}
