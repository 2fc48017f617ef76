// One answer as it streams in: its text, thinking, tool calls, probabilities and figures.
import { events } from "../../api.js";

/** Yields the same draft again and again, each time with more in it. `said`: what is there when it goes on. */
export async function* replyTo(body, said, signal) {
  const draft = {
    text: said, reasoning: "", toolCalls: [], logprobs: [], finish_reason: null, usage: null, extension: {},
    began: performance.now(), first: 0, pieces: 0,
  };
  yield draft;
  for await (const chunk of events("/v1/chat/completions", body, signal)) {
    if (chunk.usage) Object.assign(draft, { usage: chunk.usage, extension: chunk.ninestory || {} });
    const choice = chunk.choices[0];
    if (!choice) continue;
    take(draft, choice);
    yield draft;
  }
}

function take(draft, { delta, logprobs, finish_reason }) {
  draft.first ||= performance.now();
  if (delta.content) { draft.text += delta.content; draft.pieces++; }
  if (delta.reasoning_content) draft.reasoning += delta.reasoning_content;
  for (const call of delta.tool_calls || []) takeCall(draft.toolCalls, call);
  for (const { token, logprob, top_logprobs } of logprobs?.content || []) {
    draft.logprobs.push([token, logprob, top_logprobs.map((o) => [o.token, o.logprob])]);
  }
  if (finish_reason) draft.finish_reason = finish_reason;
}

function takeCall(calls, { index, id, function: called }) {
  const call = (calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
  if (id) call.id = id;
  if (called.name) call.function.name = called.name;
  call.function.arguments += called.arguments || "";
}

/** A draft that has ended, as the fields of its message. */
export function messageFields(draft, before = {}) {
  const seconds = (performance.now() - draft.first) / 1000;
  const { dropped_messages, ...figures } = draft.extension;
  const data = {
    ...before, ...figures,
    tokens_per_second: draft.first && seconds > 0 ? draft.pieces / seconds : 0,
    first_token_seconds: draft.first ? (draft.first - draft.began) / 1000 : 0,
  };
  if (dropped_messages) data.dropped_messages = dropped_messages;
  if (draft.toolCalls.length) data.tool_calls = draft.toolCalls;
  if (draft.logprobs.length) data.logprobs = [...(before.logprobs || []), ...draft.logprobs];
  const { text: content, reasoning, finish_reason, usage } = draft;
  return { content, data, finish_reason, ...(reasoning && { reasoning }), ...(usage && { usage }) };
}
