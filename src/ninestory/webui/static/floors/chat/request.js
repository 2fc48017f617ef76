// The conversation and the settings as one request of the public API, and that request for other clients to copy.
import { textOf } from "./tree.js";

/** name, least, most, step of every number that can be set. */
export const NUMBERS = [
  ["temperature", 0, 2, 0.1],
  ["top_p", 0.01, 1, 0.01],
  ["top_k", 0, 1000, 1],
  ["min_p", 0, 1, 0.01],
  ["repetition_penalty", 0.5, 2, 0.05],
  ["max_tokens", 1, 100000, 1],
  ["seed", 0, 4294967295, 1],
];
const TOP_LOGPROBS = 5;
/** Fields that OpenAI's client takes only through `extra_body`. */
const EXTENSIONS = ["top_k", "min_p", "repetition_penalty", "truncation", "continue_final_message"];

export const isRemote = (model) => Boolean(model?.startsWith("openai:"));

function apiMessage(message) {
  const { role, data } = message;
  if (role === "tool") return { role, tool_call_id: data.tool_call_id, content: textOf(message) };
  return { role, content: textOf(message), ...(data?.tool_calls?.length && { tool_calls: data.tool_calls }) };
}

/** Throws a SyntaxError when the tools of the settings are no JSON. */
export function requestBody(path, settings, model, goOn = false) {
  const messages = path.map(apiMessage);
  if (settings.system) messages.unshift({ role: "system", content: settings.system });
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  for (const [name] of NUMBERS) {
    if (settings[name] !== undefined && settings[name] !== "") body[name] = Number(settings[name]);
  }
  if (settings.logprobs) Object.assign(body, { logprobs: true, top_logprobs: TOP_LOGPROBS });
  if (settings.tools?.trim()) body.tools = JSON.parse(settings.tools);
  if (!isRemote(model) && settings.truncate !== false) body.truncation = "auto";
  if (goOn) body.continue_final_message = true;
  return body;
}

/** `needsKey`: whether the server asks for a key; it is named by its variable, never written out. */
export function asCurl({ stream, stream_options, ...body }, needsKey) {
  const quoted = JSON.stringify(body, null, 1).replaceAll("'", "'\\''");
  const key = needsKey ? " \\\n  -H \"Authorization: Bearer $NINESTORY_API_KEY\"" : "";
  return `curl ${location.origin}/v1/chat/completions \\
  -H 'Content-Type: application/json'${key} \\
  -d '${quoted}'
`;
}

export function asPython({ stream, stream_options, ...body }, needsKey) {
  const own = Object.entries(body).filter(([name]) => !EXTENSIONS.includes(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => EXTENSIONS.includes(name)));
  const given = own.map(([name, value]) => `    ${name}=${python(value)},\n`);
  if (Object.keys(extra).length) given.push(`    extra_body=${python(extra)},\n`);
  const key = needsKey ? 'os.environ["NINESTORY_API_KEY"]' : '"none"';
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=${key})
reply = client.chat.completions.create(
${given.join("")})
print(reply.choices[0].message.content)
`;
}

/** JSON data as a Python literal. */
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${python(v)}`).join(", ")}}`;
}
