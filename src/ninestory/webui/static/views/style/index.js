// Every part once, for the eye and for the tests' photographs.
import { useState } from "../../vendor/hooks.js";
import {
  html, Confirm, Drop, Empty, Field, FilePicker, IconButton, Menu, Name, Progress, Table, toast,
} from "../../parts.js";
import { t } from "../../i18n.js";

export default function Style() {
  const [asking, setAsking] = useState(false);
  return html`<div class="view"><h2>${t("style")}</h2>
    <div class="row"><button type="button" class="main">${t("send")}</button><button type="button">${t("cancel")}
      </button>
      <button type="button" disabled>${t("save")}</button><${IconButton} icon="edit" label=${t("edit")} />
      <${Menu} label=${t("menu")} icon="more" items=${[[t("rename"), () => {}], [t("remove"), () => {}]]} /></div>
    <${Field} id="style-field" label=${t("temperature")} help=${t("temperatureHelp")}>
      <input id="style-field" type="number" aria-describedby="style-field-help" /><//>
    <${Table} caption=${t("style")} columns=${[t("model"), t("size")]}
      rows=${[[html`<${Name}>starter:smollm2-135m-instruct<//>`, "98.4 MB"]]} />
    <p><${Progress} label=${t("progress")} done=${40} total=${100} /></p>
    <${Drop} class="drop-here" aria-label=${t("attach")}
      onFiles=${(files) => toast(files.map((f) => f.name).join(", "))}>
      <p>${t("dropHere")}</p><//>
    <div class="row"><${FilePicker} label=${t("chooseFile")}
      onFiles=${(files) => toast(files.map((f) => f.name).join(", "))} /></div>
    <${Empty} text=${t("empty")} />
    <div class="row"><button type="button" onClick=${() => toast(t("copied"), { hint: t("temperatureHelp") })}>
      ${t("copied")}</button>
      <button type="button" onClick=${() => toast(t("offline"), { error: true })}>${t("error")}</button>
      <button type="button" onClick=${() => setAsking(true)}>${t("remove")}</button></div>
    ${asking && html`<${Confirm} title=${t("remove")} action=${t("remove")} text=${t("removed", { title: "A" })}
      onClose=${() => setAsking(false)} onConfirm=${() => setAsking(false)} />`}</div>`;
}
