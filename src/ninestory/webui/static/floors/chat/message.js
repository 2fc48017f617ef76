// One message with what belongs to it: thinking, tool calls, probabilities, versions, figures and what one can do.
import { useEffect, useLayoutEffect, useRef, useState } from "../../vendor/hooks.js";
import { html, Icon, IconButton, Name, bytes, copyText, isShortened, toast } from "../../parts.js";
import { t, language } from "./i18n.js";
import { isComposing } from "./composer.js";
import { paint } from "./paint.js";
import { Probabilities } from "./probabilities.js";
import { ToolCalls } from "./tool-calls.js";
import { filesOf, textOf, wordsOf } from "./tree.js";

const ENDS_THAT_GO_ON = ["length", "cancelled", "error"];

/**
 * `state` is null or the draft of this message while it streams; `versions` are the ids of its versions;
 * `act(name, …)` does what the buttons say. Props stay the same between paints, so that only what changed is drawn.
 */
export function Message({ message, state, versions, isTip, busy, canAsk, canGoOn, act }) {
  const [editing, setEditing] = useState(false);
  const mine = message.role === "user";
  if (message.role === "tool") return html`<${ToolResult} message=${message} />`;
  const body = editing
    ? html`<${Edit} text=${wordsOf(message)} onCancel=${() => setEditing(false)}
        onSave=${(text) => { setEditing(false); act("edit", message, text); }} />`
    : html`<${Body} message=${message} mine=${mine} live=${Boolean(state)} />`;
  const goesOn = canAsk && !mine && canGoOn && ENDS_THAT_GO_ON.includes(message.finish_reason) && message.content;
  return html`<article class=${`message ${mine ? "is-mine" : ""}`} aria-label=${mine ? t("you") : t("assistant")}>
    ${message.reasoning && html`<details><summary>${t("thinking")}</summary>
      <p class="thinking" translate=${false}>${message.reasoning}</p></details>`}
    ${body}<${Notes} message=${message} state=${state} />
    <${ToolCalls} calls=${message.data.tool_calls} isOpen=${isTip && canAsk}
      onResults=${(r) => act("results", message, r)} />
    <${Probabilities} tokens=${message.data.logprobs} />
    <footer><${Versions} ids=${versions} at=${message.id} busy=${busy} onChoose=${(id) => act("choose", id)} />
      ${!state && !editing && html`<${IconButton} icon="copy" label=${t("copy")}
        onClick=${() => copyText(textOf(message)).then(() => toast(t("copied")))} />`}
      ${canAsk && mine && !editing && html`<${IconButton} icon="edit" label=${t("edit")}
        onClick=${() => setEditing(true)} />`}
      ${canAsk && (!mine || isTip) && html`<${IconButton} icon="again" label=${t("regenerate")}
        onClick=${() => act("regenerate", message)} />`}
      ${goesOn && html`<button type="button" onClick=${() => act("goOn", message)}>${t("goOn")}</button>`}
      ${!mine && !state && html`<${Figures} message=${message} />`}</footer></article>`;
}

function Body({ message, mine, live }) {
  const box = useRef();
  const draw = () => (mine ? undefined : paint(box.current, message.content, live));
  useLayoutEffect(draw, [message.content, live, language.value]); // a plain effect would come a frame later
  if (!mine) return html`<div class="markdown" ref=${box}></div>`;
  const files = filesOf(message);
  return html`<p class="plain" translate=${false}>${wordsOf(message)}</p>
    ${files.map((f) => html`<details class="file" key=${f.name}><summary>
    <${Icon} name="documents" /> <${Name}>${f.name}<//> <span class="quiet">${bytes(f.text.length)}</span></summary>
    <pre tabindex="0">${f.text}</pre></details>`)}`;
}

function Notes({ message, state }) {
  const dropped = message.data.dropped_messages;
  return html`${isShortened(textOf(message)) && html`<p class="quiet">${t("shortened")}</p>`}
    ${state && !message.content && html`<p class="quiet">${state.first ? t("answering") : t("starting")}</p>`}
    ${dropped > 0 && html`<p class="quiet">${t("leftOut", { n: dropped })}</p>`}
    ${message.finish_reason === "error" && html`<p class="bad">${message.content ? t("interrupted") : t("noAnswer")}
      </p>`}`;
}

function Versions({ ids, at, busy, onChoose }) {
  if (ids.length < 2) return null;
  const i = ids.indexOf(at);
  return html`<span class="branches">
    <${IconButton} icon="left" label=${t("previous")} disabled=${i === 0 || busy}
      onClick=${() => onChoose(ids[i - 1])} />
    <span>${t("version", { i: i + 1, n: ids.length })}</span>
    <${IconButton} icon="right" label=${t("next")} disabled=${i === ids.length - 1 || busy}
      onClick=${() => onChoose(ids[i + 1])} />
  </span>`;
}

function Figures({ message: { data, usage } }) {
  if (!(data.tokens_per_second > 0)) return null;
  const figures = [
    t("speed", { tps: data.tokens_per_second.toFixed(1) }),
    t("firstToken", { s: data.first_token_seconds.toFixed(2) }),
  ];
  if (usage) figures.push(t("tokens", { n: usage.completion_tokens }));
  return html`<span class="quiet figures">${figures.join(" · ")}</span>`;
}

function ToolResult({ message }) {
  return html`<article class="message" aria-label=${t("toolResult")}><details><summary>${t("toolResult")}</summary>
    <pre tabindex="0">${textOf(message)}</pre></details></article>`;
}

function Edit({ text, onSave, onCancel }) {
  const area = useRef();
  useEffect(() => { area.current.focus(); }, []);
  const keys = (e) => { if (e.key === "Escape" && !isComposing(e)) onCancel(); };
  return html`<div class="editing"><textarea ref=${area} aria-label=${t("edit")} rows="4" onKeyDown=${keys}>${text}
    </textarea>
    <div><button type="button" onClick=${onCancel}>${t("cancel")}</button>
      <button type="button" class="main" onClick=${() => onSave(area.current.value)}>${t("send")}</button></div></div>`;
}
