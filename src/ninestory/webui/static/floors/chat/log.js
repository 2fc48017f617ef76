// The messages of the path, kept at their end while the reader is there; and what a first visitor reads.
import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { html } from "../../parts.js";
import { t } from "./i18n.js";
import { titleOf } from "../../views.js";
import { link } from "../../router.js";
import { Message } from "./message.js";
import { painted } from "./paint.js";
import { isRemote } from "./request.js";

const NEAR_THE_END_PX = 60;
const FIRST_SHOWN = 30; // messages of a long conversation that are there at once: its end is what one sees
const MORE_AT_ONCE = 60;

/** How many messages from the end are drawn now: few at first, then more and more until it is all of them. */
function useGrowing(root, total) {
  const [state, setState] = useState({ root, count: FIRST_SHOWN });
  const count = state.root === root ? state.count : FIRST_SHOWN;
  useEffect(() => {
    if (count >= total) return undefined;
    let wanted = true; // the older ones wait until the end of the conversation stands painted
    painted().then(() => setTimeout(() => wanted && setState({ root, count: count + MORE_AT_ONCE }), 0));
    return () => { wanted = false; };
  }, [root, count, total]);
  return count;
}

export function Log({ path, versions, reply, busy, leaf, canAsk, canGoOn, act, children }) {
  const box = useRef();
  const inner = useRef();
  const atEnd = useRef(true);
  const shown = useGrowing(path[0]?.id, path.length);
  useEffect(() => {
    const element = box.current;
    const follow = () => { if (atEnd.current) element.scrollTop = element.scrollHeight; };
    const observer = new ResizeObserver(follow);
    observer.observe(inner.current);
    return () => observer.disconnect();
  }, []);
  const scrolled = ({ target }) => {
    atEnd.current = target.scrollHeight - target.scrollTop - target.clientHeight < NEAR_THE_END_PX;
  };
  return html`<div class="log" ref=${box} onScroll=${scrolled} tabindex="0" aria-label=${titleOf("chat")} role="region">
    <div ref=${inner}>${path.length === 0 ? children : path.slice(-shown).map((m) => html`<${Message} key=${m.id}
      message=${m} state=${reply?.id === m.id ? reply : null} versions=${versions.get(m.id)} isTip=${leaf === m.id}
      busy=${busy} canAsk=${canAsk} canGoOn=${canGoOn} act=${act} />`)}</div></div>`;
}

/** What this page is, what the starter can do and cannot, and three prompts that work well with it. */
export function Welcome({ model, onTry }) {
  return html`<div class="welcome"><h2>${t("welcome")}</h2>
    <p>${isRemote(model) ? t("welcomeRemote") : t("welcome1")}</p>
    ${(!model || model.startsWith("starter:")) && html`<p>${t("welcome2")}</p>`}
    <p>${t("welcome3")} <a ...${link("models")}>${t("toModels")}</a></p>
    <div class="tries">${["try1", "try2", "try3"].map((key) =>
      html`<button type="button" lang="en" key=${key} disabled=${!model} onClick=${() => onTry(t(key))}>${t(key)}
        </button>`)}</div></div>`;
}
