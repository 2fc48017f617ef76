// What Markdown's renderer asks of plain text; no document is needed for it.
import { LONGEST_LINE } from "./format.js";

/** Cut lines that would stall the page. */
export function shorten(text) {
  if (text.length < LONGEST_LINE) return text;
  const cut = (line) => (line.length > LONGEST_LINE ? `${line.slice(0, LONGEST_LINE)} …` : line);
  return text.split("\n").map(cut).join("\n");
}

/** What one types of a console session: the lines after the prompt, without it. */
export function commandsOf(text) {
  const commands = text.split("\n").filter((line) => line.startsWith("$ ")).map((line) => line.slice(2));
  return commands.join("\n") || text;
}

const FORMULA = /\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[([\s\S]+?)\\\]/g;

/** The formulas in a text: {source, displayMode, start, end}. */
export const formulasIn = (text) => [...text.matchAll(FORMULA)].map((match) => ({
  source: match[1] ?? match[2] ?? match[3] ?? match[4],
  displayMode: match[1] !== undefined || match[4] !== undefined,
  start: match.index,
  end: match.index + match[0].length,
}));
