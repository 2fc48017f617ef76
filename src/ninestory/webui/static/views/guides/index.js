// The guides, rendered in the page's language, with a search over all their text.
import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { html, Empty, complain } from "../../parts.js";
import { t, language, inLanguage } from "./i18n.js";
import { own } from "../../api.js";
import { link } from "../../router.js";
import { render } from "../../md.js";

const SEARCH_PAUSE_MS = 200;

export default function Guides({ query: { name } }) {
  const [list, setList] = useState(null);
  const [guide, setGuide] = useState(null);
  const [search, setSearch] = useState("");
  const text = useRef();
  useEffect(() => {
    const find = () => own("GET", `/guides?q=${encodeURIComponent(search.trim())}`).then((r) => setList(r.data))
      .catch(complain);
    const timer = setTimeout(find, search ? SEARCH_PAUSE_MS : 0);
    return () => clearTimeout(timer);
  }, [search]);
  useEffect(() => {
    setGuide(null);
    if (name) own("GET", `/guides/${encodeURIComponent(name)}?language=${language.value}`).then(setGuide)
      .catch(complain);
  }, [name, language.value]);
  useEffect(() => {
    render(text.current, guide?.markdown || "", false, { copy: t("runIt"), copied: t("copied") });
  }, [guide]);
  return html`<div class=${`view guides ${name ? "is-open" : ""}`}><aside>
      <input type="search" aria-label=${t("searchGuides")} placeholder=${t("searchGuides")} value=${search}
        onInput=${(e) => setSearch(e.target.value)} />
      ${list?.length === 0 ? html`<${Empty} text=${t("nothingFound")} />` : html`<ul>${list?.map((g) => html`<li
        key=${g.name}>
        <a ...${link(`guides?name=${g.name}`)} translate=${g.title.en !== g.title.zh}
          aria-current=${g.name === name ? "page" : undefined}>
          ${inLanguage(g.title)}${inLanguage(g.excerpt) && html`<small translate=${false}>${inLanguage(g.excerpt)}
          </small>`}</a></li>`)}</ul>`}</aside>
    <div>${name && html`<p class="narrow-only"><a ...${link("guides")}>${t("allGuides")}</a></p>`}
      ${!name && html`<${Empty} text=${t("chooseGuide")} />`}
      <div class="markdown" ref=${text}></div></div></div>`;
}
