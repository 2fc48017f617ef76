// Every part once, for the eye and for the tests' photographs.
import { html, Field, Menu, Table, Progress, Empty, IconButton, toast } from "../parts.js";
import { t } from "../i18n.js";

export default function Style() {
  return html`<div class="view"><h2>${t("style")}</h2>
    <div class="row"><button type="button" class="main">${t("send")}</button><button type="button">${t("cancel")}</button><button type="button" disabled>${t("save")}</button><${IconButton} icon="edit" label=${t("edit")} /><${Menu} label=${t("menu")} icon="more" items=${[[t("rename"), () => {}], [t("remove"), () => {}]]} /></div>
    <${Field} id="style-field" label=${t("temperature")} help=${t("temperatureHelp")}><input id="style-field" type="number" aria-describedby="style-field-help" /><//>
    <${Table} caption=${t("style")} columns=${[t("model"), t("size")]} rows=${[["starter:smollm2-135m-instruct", "98.4 MB"]]} />
    <${Progress} label=${t("progress")} done=${40} total=${100} /><${Empty} text=${t("empty")} /><button type="button" onClick=${() => toast(t("copied"), { hint: t("temperatureHelp") })}>${t("error")}</button></div>`;
}
