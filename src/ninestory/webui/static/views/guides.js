// The guides, rendered in the page's language, with a search over their titles.
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { html, Empty, complain } from "../parts.js";
import { t, language, inLanguage } from "../i18n.js";
import { own } from "../api.js";
import { render } from "../md.js";

export default function Guides({ query, go }) {
  const [list, setList] = useState([]);
  const [guide, setGuide] = useState(null);
  const [search, setSearch] = useState("");
  const text = useRef();
  useEffect(() => { own("GET", "/guides").then((r) => setList(r.data)).catch(complain); }, []);
  useEffect(() => { if (query.name) own("GET", `/guides/${encodeURIComponent(query.name)}?language=${language.value}`).then(setGuide).catch(complain); else setGuide(null); }, [query.name, language.value]);
  useEffect(() => { if (guide && text.current) render(text.current, guide.markdown, false, { copy: t("runIt"), copied: t("copied") }); }, [guide]);
  const found = list.filter((g) => JSON.stringify([g.name, g.title]).toLowerCase().includes(search.toLowerCase()));
  return html`<div class="view guides"><aside><input type="search" aria-label=${t("searchGuides")} placeholder=${t("searchGuides")} value=${search} onInput=${(e) => setSearch(e.target.value)} />
    ${found.length ? html`<ul>${found.map((g) => html`<li><a href=${`/ui/guides?name=${g.name}`} aria-current=${g.name === query.name ? "page" : undefined} onClick=${(e) => { e.preventDefault(); go(`guides?name=${g.name}`); }}>${inLanguage(g.title)}</a></li>`)}</ul>` : html`<${Empty} text=${t("empty")} />`}</aside>
    <div>${!query.name && html`<${Empty} text=${t("chooseGuide")} />`}<div class="markdown" ref=${text}></div></div></div>`;
}
