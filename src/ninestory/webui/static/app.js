// The page: the shell, and the view that the address names. Each view is a module imported on its first visit.
import { render } from "./vendor/preact.js";
import { useEffect, useState } from "./vendor/hooks.js";
import { html, Dialog, Empty, Toasts, complain } from "./parts.js";
import { t } from "./i18n.js";
import { needsKey, own, pending, signedIn, signedOut } from "./api.js";
import { listen } from "./live.js";
import { go, route } from "./router.js";
import { isView, loadView, titleOf } from "./views.js";
import { Brand, Rail, Shortcuts, SignIn, TopBar } from "./shell.js";

/** The component of the view in the address; null while it loads, `Outdated` when its module is not to be had. */
function useView(name) {
  const [view, setView] = useState(null);
  useEffect(() => {
    if (!isView(name)) { go("chat", { replace: true }); return undefined; }
    let wanted = true; // a view that one has left may arrive after the one that is wanted now
    const show = (View) => wanted && setView({ name, View });
    loadView(name).then(show, () => show(Outdated));
    return () => { wanted = false; };
  }, [name]);
  return view?.name === name ? view.View : null;
}

/** The server was upgraded under an open page: its modules have other names now. */
function Outdated() {
  return html`<${Empty} text=${t("outdated")}>
    <button type="button" class="main" onClick=${() => location.reload()}>${t("loadAgain")}</button><//>`;
}

function useShortcuts(onHelp) {
  useEffect(() => {
    const keys = (e) => {
      const typing = /INPUT|TEXTAREA|SELECT/.test(e.target.tagName);
      if (e.key === "?" && !typing) onHelp();
      if (e.altKey && e.code === "KeyN") { e.preventDefault(); go("chat"); }
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);
}

function App() {
  const [session, setSession] = useState(null);
  const [help, setHelp] = useState(false);
  const { view: name, query } = route.value;
  const View = useView(name);
  useShortcuts(() => setHelp(true));
  const ask = () => own("GET", "/session")
    .then((answer) => { needsKey.value = answer.required; setSession(answer); })
    .catch((e) => { complain(e); setSession({ required: false, signed_in: true }); });
  useEffect(() => { ask(); }, []);
  const ready = Boolean(session) && (session.signed_in || !session.required);
  useEffect(() => { if (ready) listen(); }, [ready]);
  useEffect(() => { document.title = name === "chat" || !isView(name) ? t("title") : `${titleOf(name)} · ${t("title")}`; });
  if (!session) return null;
  if (!ready) return html`<main class="centre"><div class="door"><div class="brand"><${Brand} /></div>
    <${SignIn} onDone=${ask} /></div></main><${Toasts} />`;
  const goOn = () => { signedIn(); listen(); ask(); };
  return html`<a class="skip" href="#content">${t("skip")}</a><${Rail} />
    <div class="body"><${TopBar} needsKey=${session.required} />
      <main id="content" tabindex="-1" aria-busy=${!View || pending.value > 0}>
        ${View && html`<${View} query=${query} go=${go} />`}</main></div>
    ${signedOut.value && html`<${Dialog} title=${t("signIn")} onClose=${() => { signedOut.value = false; }}>
      <${SignIn} onDone=${goOn} /><//>`}
    ${help && html`<${Shortcuts} onClose=${() => setHelp(false)} />`}<${Toasts} />`;
}

render(html`<${App} />`, document.getElementById("app"));
