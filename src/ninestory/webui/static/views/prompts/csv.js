// CSV as spreadsheets write and read it: quotes around what holds a comma, a quote or a line break.

/** Rows of cells. */
export function parseCsv(text) {
  const rows = [[]];
  let cell = "";
  let quoted = false;
  const source = text.replace(/^\uFEFF/, "").replaceAll("\r\n", "\n").replace(/\n$/, "");
  for (let i = 0; i < source.length; i++) {
    const c = source[i];
    if (quoted && c === '"' && source[i + 1] === '"') { cell += '"'; i++; }
    else if (c === '"' && (quoted || cell === "")) quoted = !quoted;
    else if (!quoted && (c === "," || c === "\n")) {
      rows[rows.length - 1].push(cell);
      cell = "";
      if (c === "\n") rows.push([]);
    } else cell += c;
  }
  rows[rows.length - 1].push(cell);
  return rows;
}

/** A cell that a spreadsheet would run as a formula gets an apostrophe: model text is not to be trusted. */
const safe = (cell) => (/^[=+\-@\t]/.test(cell) ? `'${cell}` : cell);
const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
const line = (row) => row.map((cell) => quoted(safe(String(cell)))).join(",");
export const toCsv = (rows) => `\uFEFF${rows.map(line).join("\n")}\n`; // the mark tells spreadsheets that it is UTF-8
