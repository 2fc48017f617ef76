// Markdown of finished messages, painted in slices from the newest up, so that a long conversation opens at once.
import { LONGEST_LINE } from "../../parts.js";
import { t } from "./i18n.js";

const SLICE_MS = 12;
const waiting = []; // the last one in is painted first: the end of the conversation is what one sees
const idle = []; // who waits for `painted`
let scheduled = false;
const markdown = () => import("../../md.js"); // on the first answer: two thirds of the page's bytes

/** Paint `text` into `element`: `live` at once while more may come, else soon. Returns how to call it off. */
export function paint(element, text, live) {
  const job = { element, text, live, wanted: true };
  if (live) markdown().then(({ render }) => run(render, job));
  else {
    if (!element.firstChild) element.textContent = text.slice(0, LONGEST_LINE); // to read, and find, until its turn
    waiting.push(job);
    schedule();
  }
  return () => { job.wanted = false; };
}

/** Resolves when nothing waits to be painted any more. */
export const painted = () => markdown().then(() => scheduled && new Promise((resolve) => idle.push(resolve)));

function schedule() {
  if (scheduled) return;
  scheduled = true;
  markdown().then(({ render }) => slice(render));
}

function slice(render) {
  const end = performance.now() + SLICE_MS;
  while (waiting.length && performance.now() < end) run(render, waiting.pop());
  scheduled = waiting.length > 0;
  if (scheduled) setTimeout(slice, 0, render);
  else for (const resolve of idle.splice(0)) resolve();
}

function run(render, { element, text, live, wanted }) {
  if (!wanted) return;
  if (element.firstChild?.nodeType === Node.TEXT_NODE) element.textContent = "";
  render(element, text, live, { copy: t("copy"), copied: t("copied") });
}
