"""Markdown: ATX and underlined headings, fenced listings, tables; the rest stays as written."""

from __future__ import annotations

import re
from pathlib import Path

from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode
from ninestory.floors.retrieval.parsing.text import normalised

_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.+?)\s*#*\s*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def parse(path: Path) -> Document:
    text, encoding = decode(path.read_bytes())
    builder = DocumentBuilder()
    if encoding not in ("utf-8", "utf-8-sig"):
        builder.notes.append(f"encoding: {encoding}")
    add_markdown(builder, normalised(text))
    return builder.build()


def add_markdown(builder: DocumentBuilder, text: str) -> None:
    """Blocks of Markdown text."""
    lines: list[str] = []
    fence = ""

    def flush() -> None:
        table = len(lines) > 1 and all("|" in line for line in lines)
        builder.add("\n".join(lines), "table" if table else "text")
        lines.clear()

    for line in text.split("\n"):
        opening = _FENCE.match(line)
        if fence:
            if opening and opening.group(1).startswith(fence):
                builder.add("\n".join(lines), "code")
                lines.clear()
                fence = ""
            else:
                lines.append(line)
        elif opening:
            flush()
            fence = opening.group(1)
        elif heading := _HEADING.match(line):
            flush()
            builder.add(heading.group(2), "heading", level=len(heading.group(1)))
        elif (underline := _UNDERLINE.match(line)) and len(lines) == 1 and "|" not in lines[0]:
            builder.add(lines.pop(), "heading", level=1 if underline.group(1)[0] == "=" else 2)
        elif line.strip():
            lines.append(line)
        else:
            flush()
    if fence:
        builder.add("\n".join(lines), "code")
    else:
        flush()
