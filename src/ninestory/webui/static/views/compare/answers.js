// Several answers to one question at once: asked together, painted together, stopped together.
import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { html, Icon, complain } from "../../parts.js";
import { t, language } from "./i18n.js";
import { render } from "../../md.js";
import { isComposing } from "../../floors/chat/composer.js";
import { replyTo } from "../../floors/chat/reply.js";
import { requestBody } from "../../floors/chat/request.js";
import { newMessage } from "../../floors/chat/tree.js";

const PAINT_EVERY_MS = 40;

/** `ask(text, columns)` resolves to the answers when all have ended; a column is {model, settings}. */
export function useAnswers() {
  const [answers, setAnswers] = useState([]);
  const running = useRef(null);
  useEffect(() => () => running.current?.abort(), []);

  const run = async (text, { model, settings }, i) => {
    const put = (values) => setAnswers((all) => all.map((a, k) => (k === i ? { ...a, ...values } : a)));
    const body = requestBody([newMessage("user", null, text)], settings, model);
    let draft = { text: "" };
    let painted = 0;
    let failed = false;
    try {
      for await (draft of replyTo(body, "", running.current.signal)) {
        if (performance.now() - painted > PAINT_EVERY_MS) { painted = performance.now(); put({ text: draft.text }); }
      }
    } catch (e) { failed = true; complain(e); }
    const seconds = (performance.now() - draft.first) / 1000;
    const speed = draft.first && seconds > 0 ? draft.pieces / seconds : 0;
    const answer = { text: draft.text, live: false, failed, speed };
    put(answer);
    return answer;
  };
  const ask = (text, columns) => {
    running.current = new AbortController();
    setAnswers(columns.map(() => ({ text: "", live: true, failed: false, speed: 0 })));
    return Promise.all(columns.map((column, i) => run(text, column, i)));
  };
  const stop = () => running.current?.abort();
  return { answers, busy: answers.some((a) => a.live), ask, stop, clear: () => setAnswers([]) };
}

export function Answer({ answer }) {
  const box = useRef();
  useEffect(() => {
    render(box.current, answer?.text || "", Boolean(answer?.live), { copy: t("copy"), copied: t("copied") });
  }, [answer?.text, answer?.live, language.value]);
  return html`<div class="markdown" ref=${box}></div>
    ${answer?.live && !answer.text && html`<p class="quiet">${t("answering")}</p>`}
    ${answer?.failed && html`<p class="bad">${answer.text ? t("brokeOff") : t("noAnswer")}</p>`}
    ${answer?.speed > 0 && html`<p class="quiet">${t("speed", { tps: answer.speed.toFixed(1) })}</p>`}`;
}

/** The field for the question that all of them get. */
export function Question({ busy, ready, onAsk, onStop }) {
  const [text, setText] = useState("");
  const can = ready && !busy && text.trim();
  const submit = (e) => { e.preventDefault(); if (can) onAsk(text); };
  const keys = (e) => {
    if (e.key === "Enter" && !e.shiftKey && !isComposing(e)) submit(e);
    if (e.key === "Escape") onStop();
  };
  return html`<form class="composer" onSubmit=${submit}><div class="box">
    <textarea rows="2" aria-label=${t("message")} placeholder=${t("placeholder")} value=${text}
      onInput=${(e) => setText(e.target.value)} onKeyDown=${keys}></textarea>
    ${busy
      ? html`<button type="button" class="main" aria-label=${t("stop")} title=${t("stop")} onClick=${onStop}>
          <${Icon} name="stop" /></button>`
      : html`<button class="main" aria-label=${t("send")} title=${t("send")} disabled=${!can}><${Icon} name="send" />
        </button>`}</div>
    <div class="hidden" role="status">${busy ? t("answering") : ""}</div></form>`;
}
