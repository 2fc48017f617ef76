// One job as it goes: a curve for every figure that it reports, and its log.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, complain, clock } from "../../parts.js";
import { Curve, thinned } from "../../parts/curve.js";
import { t } from "./i18n.js";
import { own } from "../../api.js";
import { jobEvent } from "../../live.js";

const MOST_LINES = 200;
const MOST_POINTS = 2000; // of one curve in memory; older ones are thinned out

// Kinds of events, and what the names of their curves begin with.
const FIGURES = { metric: "", step: "", evaluation: "held out: " };

/** `events` added to {lines, curves}: numbers of a figure beside its `step` are points of curves by their names. */
function withEvents(before, events) {
  const fresh = events.filter((e) => e.seq > before.seq);
  if (!fresh.length) return before;
  const curves = new Map(before.curves);
  for (const { kind, data } of fresh) {
    if (!(kind in FIGURES) || !Number.isFinite(data.step)) continue;
    for (const [name, value] of Object.entries(data)) {
      if (name === "step" || name === "total" || !Number.isFinite(value)) continue;
      const curve = FIGURES[kind] + name;
      const points = [...(curves.get(curve) || []), [data.step, value]];
      curves.set(curve, points.length > MOST_POINTS ? thinned(points) : points);
    }
  }
  const lines = [...before.lines, ...fresh.filter((e) => !(e.kind in FIGURES))].slice(-MOST_LINES);
  return { lines, curves, seq: fresh[fresh.length - 1].seq };
}

/** All events of a job so far, a thousand at a time, and then each as it comes. */
function useEvents(id) {
  const [seen, setSeen] = useState({ lines: [], curves: new Map(), seq: 0 });
  useEffect(() => {
    const add = (events) => setSeen((before) => withEvents(before, events));
    let held = []; // what comes live while the past is still being read
    let take = (event) => held.push(event);
    const stop = jobEvent.subscribe((event) => { if (event?.job === id) take(event); });
    const read = async (after) => {
      const { data, has_more } = await own("GET", `/jobs/${id}/events?after_seq=${after}&limit=1000`);
      add(data);
      if (has_more) return read(data[data.length - 1].seq);
      add(held);
      held = [];
      take = (event) => add([event]);
      return undefined;
    };
    read(0).catch(complain);
    return stop;
  }, [id]);
  return seen;
}

export function JobDetail({ job }) {
  const { lines, curves } = useEvents(job.id);
  const text = lines.map((e) => `${clock(e.time)}  ${e.kind}  ${JSON.stringify(e.data)}`).join("\n");
  return html`<div class="curves">${[...curves].map(([name, points]) =>
      html`<${Curve} key=${name} name=${name} points=${thinned(points)} />`)}</div>
    <h3>${t("log")}</h3><pre class="log-lines" tabindex="0" translate=${false}>${text || t("noLog")}</pre>`;
}
