// Text files from the user's disk, by a dialog or by drop.
import { useRef, useState } from "../vendor/hooks.js";
import { html } from "./html.js";
import { Icon } from "./icons.js";
import { toast } from "./toasts.js";
import { t } from "../i18n.js";
import { bytes } from "./format.js";

export const TEXT_FILES = "text/*,.md,.json,.jsonl,.csv,.py,.js,.toml,.yaml,.yml,.log,.xml,.html";
const LARGEST = 2_000_000;

/** The files that are text as {name, text}; of each other one a toast says why it is not taken. */
export async function readTexts(files) {
  const taken = [];
  for (const file of files) {
    if (file.size > LARGEST) {
      toast(t("fileTooLarge", { name: file.name, most: bytes(LARGEST) }), { error: true });
      continue;
    }
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      if (text.includes("\0")) throw new TypeError("binary");
      taken.push({ name: file.name, text });
    } catch { toast(t("fileNotText", { name: file.name }), { error: true }); }
  }
  return taken;
}

/** A button that lets one choose files; the browser's own field would speak the browser's language, not the page's. */
export function FilePicker({ id, label, help, accept, multiple = false, icon = "clip", onFiles }) {
  const field = useRef();
  const chosen = (e) => {
    const files = [...e.target.files];
    e.target.value = ""; // so that the same file can be chosen again
    if (files.length) onFiles(files);
  };
  return html`<button type="button" id=${id} aria-describedby=${help} onClick=${() => field.current.click()}>
      <${Icon} name=${icon} /> ${label}</button>
    <input ref=${field} type="file" accept=${accept} aria-label=${label} multiple=${multiple} hidden
      onChange=${chosen} />`;
}

/** A region onto which files may be dropped. */
export function Drop({ onFiles, children, ...rest }) {
  const [over, setOver] = useState(false);
  const depth = useRef(0); // enter and leave also come from the children
  const carriesFiles = (e) => [...e.dataTransfer.types].includes("Files");
  const enter = (e) => { if (carriesFiles(e)) { depth.current++; setOver(true); } };
  const leave = () => { depth.current = Math.max(0, depth.current - 1); if (!depth.current) setOver(false); };
  const drop = (e) => {
    if (!carriesFiles(e)) return;
    e.preventDefault();
    depth.current = 0;
    setOver(false);
    onFiles([...e.dataTransfer.files]);
  };
  return html`<section ...${rest} onDragEnter=${enter} onDragLeave=${leave} onDrop=${drop}
    onDragOver=${(e) => { if (carriesFiles(e)) e.preventDefault(); }}>
    ${children}${over && html`<div class="drop" aria-hidden="true"><p>${t("dropHere")}</p></div>`}</section>`;
}
