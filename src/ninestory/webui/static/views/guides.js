// The guides, rendered in the page's language, with a search over their titles.
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { html, Empty, complain } from "../parts.js";
import { t, language, inLanguage } from "../i18n.js";
import { own } from "../api.js";
import { link } from "../router.js";
import { render } from "../md.js";

export default function Guides({ query: { name } }) {
  const [list, setList] = useState([]);
  const [guide, setGuide] = useState(null);
  const [search, setSearch] = useState("");
  const text = useRef();
  useEffect(() => { own("GET", "/guides").then((r) => setList(r.data)).catch(complain); }, []);
  useEffect(() => {
    setGuide(null);
    if (name) own("GET", `/guides/${encodeURIComponent(name)}?language=${language.value}`).then(setGuide)
      .catch(complain);
  }, [name, language.value]);
  useEffect(() => {
    render(text.current, guide?.markdown || "", false, { copy: t("runIt"), copied: t("copied") });
  }, [guide]);
  const wanted = search.toLowerCase();
  const found = list.filter((g) => JSON.stringify([g.name, g.title]).toLowerCase().includes(wanted));
  return html`<div class=${`view guides ${name ? "is-open" : ""}`}><aside>
      <input type="search" aria-label=${t("searchGuides")} placeholder=${t("searchGuides")} value=${search}
        onInput=${(e) => setSearch(e.target.value)} />
      ${found.length === 0 ? html`<${Empty} text=${t("nothingFound")} />` : html`<ul>${found.map((g) => html`<li
        key=${g.name}>
        <a ...${link(`guides?name=${g.name}`)} translate=${g.title.en !== g.title.zh}
          aria-current=${g.name === name ? "page" : undefined}>
          ${inLanguage(g.title)}</a></li>`)}</ul>`}</aside>
    <div>${!name && html`<${Empty} text=${t("chooseGuide")} />`}<div class="markdown" ref=${text}></div></div></div>`;
}
