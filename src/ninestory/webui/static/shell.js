// What stands around every view: the rail, the bar at the top, sign-in and the list of shortcuts.
import { useState } from "./vendor/hooks.js";
import { signal } from "./vendor/signals.js";
import { html, Dialog, Field, Icon, IconButton, complain } from "./parts.js";
import { inLanguage, t, language, setLanguage } from "./i18n.js";
import { own } from "./api.js";
import { connected } from "./live.js";
import { link, route } from "./router.js";
import { FLOORS, TOOLS, isView } from "./views.js";

const THEMES = [["auto", "themeAuto"], ["light", "themeLight"], ["dark", "themeDark"]];
const SHORTCUTS = [["Enter", "shortcutSend"], ["Shift+Enter", "shortcutBreak"], ["Esc", "shortcutStop"],
  ["Alt+N", "shortcutNew"], ["?", "shortcutHelp"]];

// The shape of icon.svg, here in the colour of the theme.
const TOWER = "M16 2 10 7h12zM9 8h14l2 4H7zM7 13h18l2 4H5zM5 18h22l2 5H3zM3 24h26v5H3z";

const railOpen = signal(false);
const theme = signal(localStorage.getItem("ninestory.theme") || "auto");
function chooseTheme(value) {
  theme.value = value;
  localStorage.setItem("ninestory.theme", value);
  window.applyTheme(value);
}

/** The nine floors, the ninth at the top, then the tools. */
export function Rail() {
  const close = () => { railOpen.value = false; };
  const item = (name, label) => (isView(name)
    ? html`<li><a ...${link(name, close)} aria-current=${route.value.view === name ? "page" : undefined}>
        <${Icon} name=${name} /><span>${label}</span></a></li>`
    : html`<li><span class="is-absent" title=${t("notYet")}><${Icon} name=${name} /><span>${label}</span>
        <span class="hidden">${t("notYet")}</span></span></li>`);
  return html`<nav class=${`rail ${railOpen.value ? "is-open" : ""}`} aria-label=${t("floors")}>
    <ul class="floors">${FLOORS.map((floor) => item(floor.view, inLanguage(floor.title))).reverse()}</ul>
    <ul>${TOOLS.map((name) => item(name, t(name)))}</ul></nav>
    ${railOpen.value && html`<div class="curtain" onClick=${close}></div>`}`;
}

export const Brand = () => html`<svg viewBox="0 0 32 32" aria-hidden="true"><path d=${TOWER} /></svg>
  <h1>${t("title")}</h1>`;

export function TopBar({ needsKey }) {
  const signOut = () => own("DELETE", "/session").then(() => location.reload()).catch(complain);
  return html`<header class="top">
    <${IconButton} icon="menu" label=${t("menu")} class="icon-button narrow-only" aria-expanded=${railOpen.value}
      onClick=${() => { railOpen.value = !railOpen.value; }} />
    <a class="brand" ...${link("chat")}><${Brand} /></a><span class="grow"></span>
    ${!connected.value && html`<span class="bad" role="status">${t("offline")}</span>`}
    <select aria-label=${t("language")} value=${language.value}
      onChange=${(e) => setLanguage(e.target.value).catch(complain)}>
      <option value="en" lang="en">English</option><option value="zh" lang="zh-CN">简体中文</option></select>
    <select aria-label=${t("theme")} value=${theme.value} onChange=${(e) => chooseTheme(e.target.value)}>
      ${THEMES.map(([value, words]) => html`<option value=${value}>${t(words)}</option>`)}</select>
    ${needsKey && html`<button type="button" onClick=${signOut}>${t("signOut")}</button>`}</header>`;
}

export function SignIn({ onDone }) {
  const [wrong, setWrong] = useState(false);
  const submit = async (e) => {
    e.preventDefault();
    setWrong(false);
    try {
      await own("POST", "/session", { api_key: new FormData(e.target).get("key") });
      onDone();
    } catch (error) {
      if (error.status === 401) setWrong(true);
      else complain(error);
    }
  };
  return html`<form class="card" onSubmit=${submit}><h2>${t("signIn")}</h2><p>${t("signInHelp")}</p>
    <${Field} id="key" label=${t("apiKey")}>
      <input id="key" name="key" type="password" autocomplete="current-password" required autofocus /><//>
    ${wrong && html`<p class="bad" role="alert">${t("wrongKey")}</p>`}<button class="main">${t("signIn")}</button>
      </form>`;
}

export function Shortcuts({ onClose }) {
  return html`<${Dialog} title=${t("shortcuts")} onClose=${onClose}>
    <dl class="shortcuts">${SHORTCUTS.map(([keys, words]) => html`<dt><kbd>${keys}</kbd></dt><dd>${t(words)}</dd>`)}
    </dl><//>`;
}
