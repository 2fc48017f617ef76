// The only place that speaks with the server. Errors become ApiError with the server's hint in the page's language.
import { signal } from "./vendor/signals.js";
import { language } from "./i18n.js";

/** True when the server asked for the key in mid-use: the shell shows the sign-in over what is there. */
export const signedOut = signal(false);
let signIns = 0;
/** The key was taken: what was refused from before this moment on says nothing any more. */
export function signedIn() {
  signIns++;
  signedOut.value = false;
}
/** How many answers of the server are waited for. */
export const pending = signal(0);
/** Whether this server asks for a key at all. */
export const needsKey = signal(false);

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message);
    Object.assign(this, { status, code: error.code, details: error.details || {}, zh: error.hint_zh, en: error.hint });
  }
  get hint() { return (language.value === "zh" ? this.zh : this.en) || ""; }
}

/** `sent`: how many sign-ins there had been when the request left. */
async function failed(response, sent) {
  let error = { message: `${response.status} ${response.statusText}`, code: "http_error" };
  try { error = (await response.json()).error || error; } catch { /* not JSON: the status says it */ }
  const late = sent !== signIns;
  if (response.status === 401 && !late && !response.url.endsWith("/session")) signedOut.value = true;
  return new ApiError(response.status, error);
}

export async function call(method, path, body, signal) {
  const options = { method, signal, headers: {} };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  pending.value++;
  const sent = signIns;
  try {
    const response = await fetch(path, options);
    if (!response.ok) throw await failed(response, sent);
    return response.status === 204 ? null : await response.json();
  } finally { pending.value--; }
}

export const own = (method, path, body) => call(method, `/ninestory/v1${path}`, body);

/** Store a file under /v1/files. */
export async function upload(file, purpose = "assistants") {
  const form = new FormData();
  form.append("file", file);
  form.append("purpose", purpose);
  const sent = signIns;
  const response = await fetch("/v1/files", { method: "POST", body: form });
  if (!response.ok) throw await failed(response, sent);
  return response.json();
}

/** POST and yield the JSON of every server-sent event until [DONE]. */
export async function* events(path, body, signal) {
  const sent = signIns;
  const response = await fetch(path, {
    method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  if (!response.ok) throw await failed(response, sent);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((l) => l.startsWith("data:")).map((l) => l.slice(5).trim()).join("\n");
      if (!data || data === "[DONE]") continue;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(200, parsed.error);
      yield parsed;
    }
  }
}
