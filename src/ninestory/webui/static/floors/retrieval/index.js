// Floor 2: vector stores, their files, questions answered from them, and the source behind every passage.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Field, Empty, complain } from "../../parts.js";
import { t } from "./i18n.js";
import { titleOf } from "../../views.js";
import { call, own } from "../../api.js";
import { Ask } from "./ask.js";
import { Files } from "./files.js";
import { Source } from "./source.js";

const STORES = "/v1/vector_stores";

export default function Knowledge({ query, go }) {
  const [stores, setStores] = useState(null);
  const [models, setModels] = useState([]);
  const chosen = stores?.find((s) => s.id === query.store) || stores?.[0];
  const refresh = () => call("GET", `${STORES}?limit=100`).then((r) => setStores(r.data)).catch(complain);
  const here = `documents?store=${chosen?.id}`;
  /** The source has an address of its own: `at` is the passage's ordinal, `quote` the characters cited of it. */
  const show = ({ file, at, quote }) => go(`${here}&file=${file}${at === undefined ? "" : `&at=${at}`}${
    quote ? `&quote=${quote}` : ""}`);
  useEffect(() => {
    refresh();
    own("GET", "/models").then((r) => setModels(r.data.filter((m) => m.task === "chat").map((m) => m.model)))
      .catch(complain);
  }, []);
  const create = async (e) => {
    e.preventDefault();
    const form = e.target;
    try {
      const store = await call("POST", STORES, { name: new FormData(form).get("name") });
      form.reset();
      await refresh();
      go(`documents?store=${store.id}`);
    } catch (error) { complain(error); }
  };
  const remove = (store) => call("DELETE", `${STORES}/${store.id}`)
    .then(() => { go("documents", { replace: true }); return refresh(); }).catch(complain);
  if (!stores) return html`<div class="view"><${Empty} text="…" /></div>`;
  return html`<div class="view knowledge"><h2>${titleOf("documents")}</h2><p class="quiet">${t("knowledgeHelp")}</p>
    <div class="row filters">
      ${chosen && html`<${Field} id="store" label=${t("knowledgeBase")}><select id="store" value=${chosen.id}
        onChange=${(e) => go(`documents?store=${e.target.value}`)}>
        ${stores.map((s) => html`<option value=${s.id} translate=${false}>${s.name || s.id}</option>`)}</select><//>`}
      <form class="row filters" onSubmit=${create}><${Field} id="name" label=${t("newKnowledgeBase")}><input id="name"
        name="name" required maxlength="200" /><//>
        <button class=${chosen ? "" : "main"}>${t("create")}</button></form></div>
    ${chosen ? html`<${Ask} key=${`ask-${chosen.id}`} store=${chosen} models=${models} onPassage=${show} />
      <${Files} key=${chosen.id} store=${chosen} onChange=${refresh} onPassage=${show}
        onRemove=${() => remove(chosen)} />` : html`<${Empty} text=${t("noKnowledge")} />`}
    ${chosen && query.file && html`<${Source} key=${`${query.file} ${query.at} ${query.quote}`}
      store=${chosen.id} file=${query.file} at=${query.at} quote=${query.quote} onClose=${() => go(here)} />`}</div>`;
}
