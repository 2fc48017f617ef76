// What changes on the server by itself: loaded models and jobs, as signals fed by the one event stream of all tabs.
import { signal } from "./vendor/signals.js";

export const loaded = signal(null); // rows of GET /ps, null until the first event
export const jobs = signal(new Map());
export const connected = signal(true);
export const restarts = signal(0);
/** The last line of a job's log: {seq, job, time, kind, data}. */
export const jobEvent = signal(null);
let startedAt = null;
let worker = null; // the port to the shared one, where there is one

const HANDLERS = {
  hello(data) {
    connected.value = true;
    if (startedAt !== null && startedAt !== data.started_at) restarts.value++;
    startedAt = data.started_at;
  },
  models: (data) => { loaded.value = data.data; },
  job: (data) => { jobs.value = new Map(jobs.value).set(data.id, data); },
  job_dismissed({ id }) {
    jobs.value = new Map([...jobs.value].filter(([other]) => other !== id));
  },
  job_event: (data) => { jobEvent.value = data; },
  lost: () => { connected.value = false; },
};

/** Begin to listen; call once, signed in. */
export function listen() {
  if (!window.SharedWorker) { // some phones: one stream a tab
    const source = new EventSource("/ninestory/v1/events");
    for (const name of ["hello", "models", "job", "job_event"]) {
      source.addEventListener(name, (event) => HANDLERS[name](JSON.parse(event.data)));
    }
    source.onerror = HANDLERS.lost;
    return;
  }
  const { port } = new SharedWorker(new URL("./live-worker.js", import.meta.url), { name: "ninestory" });
  port.onmessage = ({ data: { name, data } }) => HANDLERS[name](data);
  worker = port;
  port.postMessage("hello");
  addEventListener("pagehide", () => port.postMessage("goodbye"));
  addEventListener("pageshow", (event) => { if (event.persisted) port.postMessage("hello"); });
}

/** Drop a dismissed job here and in all tabs: the event stream does not tell what is gone. */
export function forgetJob(id) {
  HANDLERS.job_dismissed({ id });
  worker?.postMessage({ dismissed: id });
}
