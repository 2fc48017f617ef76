// One prompt to up to four models or settings, side by side and streaming together.
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { html, Icon, IconButton, Field, complain } from "../parts.js";
import { t, language } from "../i18n.js";
import { own, events } from "../api.js";
import { render } from "../md.js";

const MOST = 4;
const blank = (model) => ({ model, temperature: "", seed: "" });

export default function Compare() {
  const [models, setModels] = useState([]);
  const [columns, setColumns] = useState([]);
  const [answers, setAnswers] = useState([]);
  const [text, setText] = useState("");
  const [announcement, announce] = useState("");
  const running = useRef(null);
  useEffect(() => {
    own("GET", "/models").then((r) => {
      const chat = r.data.filter((m) => m.task === "chat").map((m) => m.model);
      setModels(chat);
      if (chat.length) setColumns([blank(chat[0]), { ...blank(chat[1] || chat[0]), temperature: chat[1] ? "" : "0" }]);
    }).catch(complain);
    return () => running.current?.abort();
  }, []);
  const busy = answers.some((a) => a.live);
  const change = (i, values) => setColumns(columns.map((c, k) => (k === i ? { ...c, ...values } : c)));

  async function run(column, i, signal) {
    const put = (values) => setAnswers((all) => all.map((a, k) => (k === i ? { ...a, ...values } : a)));
    const body = { model: column.model, messages: [{ role: "user", content: text }], stream: true };
    for (const name of ["temperature", "seed"]) if (column[name] !== "") body[name] = Number(column[name]);
    let said = "", count = 0, first = 0, painted = 0;
    try {
      for await (const chunk of events("/v1/chat/completions", body, signal)) {
        const piece = chunk.choices[0]?.delta.content;
        if (!piece) continue;
        said += piece;
        count++;
        first ||= performance.now();
        if (performance.now() - painted > 40) { painted = performance.now(); put({ text: said }); }
      }
    } catch (e) { complain(e); }
    const seconds = (performance.now() - first) / 1000;
    put({ text: said, live: false, speed: count && seconds > 0 ? count / seconds : 0 });
  }

  async function submit(e) {
    e.preventDefault();
    if (busy || !text.trim() || !columns.length) return;
    running.current = new AbortController();
    setAnswers(columns.map(() => ({ text: "", live: true, speed: 0 })));
    announce(t("answering"));
    await Promise.all(columns.map((column, i) => run(column, i, running.current.signal)));
    announce(t("answered"));
  }
  const keys = (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) submit(e);
    if (e.key === "Escape") running.current?.abort();
  };

  return html`<div class="compare"><header class="row"><h2>${t("compare")}</h2><span class="grow"></span>
      <button type="button" disabled=${busy || !models.length || columns.length === MOST} onClick=${() => setColumns([...columns, blank(models[0])])}>
        <${Icon} name="plus" /> ${t("addColumn")}</button></header>
    <p class="quiet">${t("compareHelp")}</p>
    <div class="columns">${columns.map((column, i) => html`<${Column} key=${i} number=${i + 1} column=${column} models=${models}
      answer=${answers[i]} busy=${busy} onChange=${(values) => change(i, values)}
      onRemove=${columns.length > 1 && (() => { setColumns(columns.filter((_, k) => k !== i)); setAnswers(answers.filter((_, k) => k !== i)); })} />`)}</div>
    <form class="composer" onSubmit=${submit}>
      <textarea rows="2" aria-label=${t("message")} placeholder=${t("placeholder")} value=${text} onInput=${(e) => setText(e.target.value)} onKeyDown=${keys}></textarea>
      ${busy
        ? html`<button type="button" class="main" aria-label=${t("stop")} title=${t("stop")} onClick=${() => running.current.abort()}><${Icon} name="stop" /></button>`
        : html`<button class="main" aria-label=${t("send")} title=${t("send")} disabled=${!text.trim() || !columns.length}><${Icon} name="send" /></button>`}</form>
    <div class="hidden" role="status">${announcement}</div></div>`;
}

function Column({ number, column, models, answer, busy, onChange, onRemove }) {
  const box = useRef();
  useEffect(() => {
    render(box.current, answer?.text || "", Boolean(answer?.live), { copy: t("copy"), copied: t("copied") });
  }, [answer?.text, answer?.live, language.value]);
  const id = (name) => `${name}-${number}`;
  return html`<section class="card" aria-label=${t("column", { n: number })}>
    <div class="row"><h3>${t("column", { n: number })}</h3><span class="grow"></span>
      ${onRemove && html`<${IconButton} icon="close" label=${t("removeColumn", { n: number })} disabled=${busy} onClick=${onRemove} />`}</div>
    <${Field} id=${id("model")} label=${t("model")}><select id=${id("model")} value=${column.model} onChange=${(e) => onChange({ model: e.target.value })}>
      ${models.map((m) => html`<option value=${m}>${m}</option>`)}</select><//>
    <div class="row"><${Field} id=${id("temperature")} label=${t("temperature")}><input id=${id("temperature")} type="number" min="0" max="2" step="0.1"
        value=${column.temperature} onInput=${(e) => onChange({ temperature: e.target.value })} /><//>
      <${Field} id=${id("seed")} label=${t("seed")}><input id=${id("seed")} type="number" min="0" step="1"
        value=${column.seed} onInput=${(e) => onChange({ seed: e.target.value })} /><//></div>
    <div class="markdown" ref=${box}></div>
    ${answer?.live && !answer.text && html`<p class="quiet">${t("answering")}</p>`}
    ${answer?.speed > 0 && html`<p class="quiet">${t("speed", { tps: answer.speed.toFixed(1) })}</p>`}</section>`;
}
