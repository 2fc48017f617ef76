// Shell: rail, router, theme and language, sign-in. Each view is a module imported on its first visit.
import { render } from "./vendor/preact.js";
import { useEffect, useState } from "./vendor/hooks.js";
import { signal } from "./vendor/signals.js";
import { html, Icon, IconButton, Toasts, Dialog, Field, Empty, complain } from "./parts.js";
import { t, language, setLanguage } from "./i18n.js";
import { own, signedOut } from "./api.js";
import { connected, listen } from "./live.js";

const FLOORS = [["chat", 1], ["documents", 2], ["draw", 3], ["look", 4], ["listen", 5], ["speak", 6], ["agents", 7], ["tune", 8], ["fields", 9]];
const BUILT = { chat: () => import("./floors/chat.js") };
const VIEWS = { ...BUILT, compare: () => import("./floors/compare.js"), models: () => import("./views/models.js"), jobs: () => import("./views/jobs.js"), system: () => import("./views/system.js"), guides: () => import("./views/guides.js"), style: () => import("./views/style.js") };

// --- router -----------------------------------------------------------------------------------------------------
const here = () => ({ view: location.pathname.replace(/^\/ui\/?/, "").split("/")[0] || "chat", query: Object.fromEntries(new URLSearchParams(location.search)) });
export const route = signal(here());
export function go(path, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"]({}, "", `/ui/${path}`);
  route.value = here();
}
addEventListener("popstate", () => { route.value = here(); });
const link = (path) => ({ href: `/ui/${path}`, onClick: (e) => { if (!e.metaKey && !e.ctrlKey) { e.preventDefault(); go(path); railOpen.value = false; } } });

const railOpen = signal(false);
const theme = signal(localStorage.getItem("ninestory.theme") || "auto");
const chooseTheme = (value) => { theme.value = value; localStorage.setItem("ninestory.theme", value); window.applyTheme(value); };

function Rail() {
  const at = route.value.view;
  const item = (name, label, built = true) => built
    ? html`<li><a ...${link(name)} aria-current=${at === name ? "page" : undefined}><${Icon} name=${name} /><span>${label}</span></a></li>`
    : html`<li><span class="is-absent" title=${t("notYet")}><${Icon} name=${name} /><span>${label}</span><span class="hidden">${t("notYet")}</span></span></li>`;
  return html`<nav class=${`rail ${railOpen.value ? "is-open" : ""}`} aria-label=${t("floors")}>
    <a class="brand" ...${link("chat")} aria-label=${t("title")}><img src="/ui/icon.svg" alt="" width="28" height="28" /></a>
    <ul class="floors">${[...FLOORS].reverse().map(([name, n]) => item(name, t(`floor${n}`), name in BUILT))}</ul>
    <ul>${["models", "jobs", "guides", "system"].map((name) => item(name, t(name)))}</ul></nav>`;
}

function TopBar({ needsKey }) {
  return html`<header class="top"><${IconButton} icon="menu" label=${t("menu")} class="icon-button narrow-only" onClick=${() => (railOpen.value = !railOpen.value)} />
    <h1>${t("title")}</h1><span class="grow"></span>
    ${!connected.value && html`<span class="bad" role="status">${t("offline")}</span>`}
    <label><span class="hidden">${t("language")}</span><select aria-label=${t("language")} value=${language.value} onChange=${(e) => setLanguage(e.target.value)}><option value="en">English</option><option value="zh">简体中文</option></select></label>
    <label><span class="hidden">${t("theme")}</span><select aria-label=${t("theme")} value=${theme.value} onChange=${(e) => chooseTheme(e.target.value)}>${["auto", "light", "dark"].map((v) => html`<option value=${v}>${t(`theme${v[0].toUpperCase()}${v.slice(1)}`)}</option>`)}</select></label>
    ${needsKey && html`<button type="button" onClick=${() => own("DELETE", "/session").then(() => location.reload())}>${t("signOut")}</button>`}</header>`;
}

function SignIn({ onDone }) {
  const [wrong, setWrong] = useState(false);
  const submit = async (e) => {
    e.preventDefault();
    try { await own("POST", "/session", { api_key: new FormData(e.target).get("key") }); signedOut.value = false; onDone(); } catch { setWrong(true); }
  };
  return html`<form class="card" onSubmit=${submit}><h2>${t("signIn")}</h2><p>${t("signInHelp")}</p>
    <${Field} id="key" label=${t("apiKey")}><input id="key" name="key" type="password" autocomplete="current-password" required /><//>
    ${wrong && html`<p class="bad" role="alert">${t("wrongKey")}</p>`}<button class="main">${t("signIn")}</button></form>`;
}

function Shortcuts({ onClose }) {
  return html`<${Dialog} title=${t("shortcuts")} onClose=${onClose}><ul>${["Send", "Break", "Stop", "New", "Help"].map((k) => html`<li>${t(`shortcut${k}`)}</li>`)}</ul><//>`;
}

function App() {
  const [session, setSession] = useState(null);
  const [view, setView] = useState(null);
  const [help, setHelp] = useState(false);
  const name = route.value.view;
  const ask = () => own("GET", "/session").then(setSession).catch((e) => { complain(e); setSession({ required: false, signed_in: true }); });
  useEffect(() => { ask(); }, []);
  useEffect(() => {
    const load = VIEWS[name];
    if (!load) { go("chat", { replace: true }); return; }
    load().then((module) => setView({ name, View: module.default }));
  }, [name]);
  useEffect(() => {
    const keys = (e) => {
      const typing = /INPUT|TEXTAREA|SELECT/.test(e.target.tagName);
      if (e.key === "?" && !typing) setHelp(true);
      if (e.altKey && e.code === "KeyN") { e.preventDefault(); go("chat"); }
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);
  const ready = session && (session.signed_in || !session.required);
  useEffect(() => { if (ready) listen(); }, [Boolean(ready)]);
  document.title = name === "chat" || !VIEWS[name] ? t("title") : `${t(name)} · ${t("title")}`;
  if (!session) return null;
  if (!ready) return html`<main class="centre"><${SignIn} onDone=${ask} /></main><${Toasts} />`;
  return html`<a class="skip" href="#content">${t("skip")}</a><${Rail} /><div class="body"><${TopBar} needsKey=${session.required} />
    <main id="content" tabindex="-1">${view && view.name === name ? html`<${view.View} query=${route.value.query} go=${go} />` : html`<${Empty} text="…" />`}</main></div>
    ${signedOut.value && html`<${Dialog} title=${t("signIn")} onClose=${() => (signedOut.value = false)}><${SignIn} onDone=${() => { listen(); ask(); }} /><//>`}
    ${help && html`<${Shortcuts} onClose=${() => setHelp(false)} />`}<${Toasts} />`;
}

render(html`<${App} />`, document.getElementById("app"));
