"""Word documents: paragraphs with their heading styles, and tables, straight from the XML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.archive import Archive, open_archive

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_BREAKS = {f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}tab": "\t"}


def parse(path: Path) -> Document:
    builder = DocumentBuilder()
    with open_archive(path) as archive:
        levels = _heading_levels(archive)
        for element in _content(archive.xml("word/document.xml").find(f"{_W}body")):
            if element.tag == f"{_W}tbl":
                rows = [" | ".join(_cell(cell) for cell in row.iter(f"{_W}tc")) for row in element.iter(f"{_W}tr")]
                builder.add("\n".join(rows), "table")
                continue
            level = _level(element, levels)
            builder.add(_text(element), "heading" if level else "text", level=level)
    return builder.build()


def _content(body: Any) -> Iterator[Any]:
    """Paragraphs and tables in order, also those inside content controls."""
    for element in body if body is not None else ():
        if element.tag in (f"{_W}p", f"{_W}tbl"):
            yield element
        elif element.tag == f"{_W}sdt":
            yield from _content(element.find(f"{_W}sdtContent"))


def _text(paragraph: Any) -> str:
    """Runs in order; deleted text of tracked changes has another tag and stays out."""
    pieces = []
    for element in paragraph.iter(f"{_W}t", *_BREAKS):
        pieces.append(_BREAKS.get(element.tag) or element.text or "")
    return "".join(pieces)


def _cell(cell: Any) -> str:
    return " ".join(_text(paragraph) for paragraph in cell.iter(f"{_W}p")).strip()


def _level(paragraph: Any, levels: dict[str, int]) -> int:
    properties = paragraph.find(f"{_W}pPr")
    if properties is None:
        return 0
    outline = properties.find(f"{_W}outlineLvl")
    if outline is not None and (value := outline.get(f"{_W}val", "9")).isdigit() and int(value) < 6:
        return int(value) + 1
    style = properties.find(f"{_W}pStyle")
    return levels.get(style.get(f"{_W}val", ""), 0) if style is not None else 0


def _heading_levels(archive: Archive) -> dict[str, int]:
    """Style id → heading level, by the style's name (the same in every language of Word)."""
    if "word/styles.xml" not in archive.names:
        return {}
    levels = {}
    for style in archive.xml("word/styles.xml").iter(f"{_W}style"):
        name = style.find(f"{_W}name")
        title = (name.get(f"{_W}val", "") if name is not None else "").lower()
        if found := re.fullmatch(r"heading ([1-6])", title):
            levels[style.get(f"{_W}styleId", "")] = int(found.group(1))
        elif title == "title":
            levels[style.get(f"{_W}styleId", "")] = 1
    return levels
