"""Plain text: paragraphs at blank lines; numbered lines such as "第三章 使用" are headings."""

from __future__ import annotations

import re
from pathlib import Path

from ninestory.floors.retrieval.chunking.titles import is_title
from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode

_CHAPTER = re.compile(r"(第[\d一二三四五六七八九十百]+[章编部篇]|chapter\s+\d+)", re.IGNORECASE)
_DEPTH = re.compile(r"\d+(?:\.\d+)*")


def parse(path: Path) -> Document:
    text, encoding = decode(path.read_bytes())
    builder = DocumentBuilder()
    if encoding not in ("utf-8", "utf-8-sig"):
        builder.notes.append(f"encoding: {encoding}")
    add_paragraphs(builder, text)
    return builder.build()


def add_paragraphs(builder: DocumentBuilder, text: str, page: int | None = None) -> None:
    """Blocks of plain text."""
    for paragraph in re.split(r"\n\s*\n", normalised(text)):
        lines: list[str] = []
        for line in paragraph.split("\n"):
            if is_title(line.strip()):
                builder.add("\n".join(lines), page=page)
                builder.add(line, "heading", level=heading_level(line.strip()), page=page)
                lines = []
            else:
                lines.append(line.rstrip())
        builder.add("\n".join(lines), page=page)


def heading_level(title: str) -> int:
    """1 for a chapter, else one more than the dots in its number: "3.1 …" is 2."""
    if _CHAPTER.match(title):
        return 1
    number = _DEPTH.match(title)
    return min(number.group().count(".") + 1, 6) if number else 2


def normalised(text: str) -> str:
    """One kind of line end, and no characters that stand for nothing."""
    return re.sub(r"[\0\ufeff\x0b]", "", text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n"))
