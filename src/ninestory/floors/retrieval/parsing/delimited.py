"""CSV and TSV: rows as "a | b | c", the first row kept as the table's head."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from ninestory.core.errors import Damaged
from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode
from ninestory.floors.retrieval.parsing.text import normalised


def parse(path: Path) -> Document:
    text, encoding = decode(path.read_bytes())
    builder = DocumentBuilder()
    if encoding not in ("utf-8", "utf-8-sig"):
        builder.notes.append(f"encoding: {encoding}")
    try:
        dialect: type[csv.Dialect] = csv.Sniffer().sniff(text[:8192], delimiters=",;\t|")
    except csv.Error:  # one column, or too few rows to tell
        dialect = csv.excel
    try:
        builder.add(rows_as_text(csv.reader(io.StringIO(normalised(text)), dialect)), "table")
    except csv.Error as error:
        raise Damaged(f"It is no table: {error}.", code="damaged_table") from error
    return builder.build()


def rows_as_text(rows: Iterable[Iterable[object]]) -> str:
    """One line a row; empty rows are dropped, line breaks in cells become blanks."""
    lines = []
    for row in rows:
        cells = ["" if cell is None else " ".join(str(cell).split()) for cell in row]
        if any(cells):
            lines.append(" | ".join(cells).rstrip(" |"))
    return "\n".join(lines)
