// How figures and texts are shown, copied and saved.

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
  return `${n.toFixed(i > 1 ? 1 : 0)}\u00A0${units[i]}`; // a figure stays with its unit
}

/** A length of time in the unit that suits it: 40 s, 12 min, 3.5 h. */
export function duration(seconds) {
  const [unit, length, digits] = seconds < 90 ? ["second", 1, 0] : seconds < 5400 ? ["minute", 60, 0]
    : ["hour", 3600, 1];
  return new Intl.NumberFormat(document.documentElement.lang,
    { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: digits }).format(seconds / length);
}

/** Unix seconds as a short date and time in the page's language. */
export const clock = (seconds) =>
  new Date(seconds * 1000).toLocaleString(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });

/** The longest line of a text that is shown whole. */
export const LONGEST_LINE = 20000;
/** Whether the end of a line is left out, because it would stall the page. */
export const isShortened = (text) =>
  text.length >= LONGEST_LINE && text.split("\n").some((line) => line.length > LONGEST_LINE);

/** The clipboard exists only on this machine or over HTTPS; elsewhere the old way. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Hand the browser a file to save. */
export function download(name, text) {
  const href = URL.createObjectURL(new Blob([text]));
  const link = Object.assign(document.createElement("a"), { href, download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}
