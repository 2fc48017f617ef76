// The calls a model makes of the tools that the settings offer: folded, with a place for what each tool gave.
import { html, Name } from "../../parts.js";
import { t } from "./i18n.js";

function pretty(json) {
  try { return JSON.stringify(JSON.parse(json), null, 2); } catch { return json; }
}

/** `onResults` gets [{id, text}] in the order of the calls. The fields stand open while an answer is waited for. */
export function ToolCalls({ calls, isOpen, onResults }) {
  if (!calls?.length) return null;
  const submit = (e) => {
    e.preventDefault();
    const given = new FormData(e.target);
    onResults(calls.map((call, i) => ({ id: call.id, text: given.get(`result-${i}`) })));
  };
  return html`<details open=${isOpen}><summary>${t("toolCalls")}: <${Name}>
    ${calls.map((c) => c.function.name).join(", ")}<//></summary>
    <form class="calls" onSubmit=${submit}>${calls.map((call, i) => html`<div key=${call.id}>
      <pre tabindex="0"><strong>${call.function.name}</strong> ${pretty(call.function.arguments)}</pre>
      ${isOpen && html`<label>${t("toolGave", { name: call.function.name })}
        <textarea name=${`result-${i}`} rows="2" required></textarea></label>`}</div>`)}
    ${isOpen && html`<button class="main">${t("sendResults")}</button>`}</form></details>`;
}
