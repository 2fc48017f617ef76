"""Slides: title, text, tables and speaker's notes of each, the slide's number as page."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.archive import Archive, open_archive

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_DECK = "ppt/presentation.xml"


def parse(path: Path) -> Document:
    builder = DocumentBuilder()
    with open_archive(path) as archive:
        targets = _relations(archive, _DECK)
        order = [entry.get(f"{_R}id") for entry in archive.xml(_DECK).iter(f"{_P}sldId")]
        for number, relation in enumerate(order, 1):
            if relation in targets:
                _slide(builder, archive, targets[relation][1], number)
    return builder.build()


def _slide(builder: DocumentBuilder, archive: Archive, part: str, number: int) -> None:
    slide = archive.xml(part)
    shapes = [(shape, _is_title(shape)) for shape in slide.iter(f"{_P}sp")]
    for shape, _ in (pair for pair in shapes if pair[1]):
        builder.add(_text(shape).replace("\n", " "), "heading", level=2, page=number)
    for shape, title in shapes:
        if not title:
            builder.add(_text(shape), page=number)
    for table in slide.iter(f"{_A}tbl"):
        rows = [" | ".join(_text(cell) for cell in row.iter(f"{_A}tc")) for row in table.iter(f"{_A}tr")]
        builder.add("\n".join(rows), "table", page=number)
    for kind, notes in _relations(archive, part).values():
        if kind.endswith("/notesSlide") and notes in archive.names:
            for shape in archive.xml(notes).iter(f"{_P}sp"):
                placeholder = shape.find(f".//{_P}ph")
                if placeholder is not None and placeholder.get("type") == "body":
                    builder.add(_text(shape), page=number)


def _is_title(shape: Any) -> bool:
    placeholder = shape.find(f".//{_P}ph")
    return placeholder is not None and placeholder.get("type") in ("title", "ctrTitle")


def _text(element: Any) -> str:
    lines = ["".join(run.text or "" for run in p.iter(f"{_A}t")) for p in element.iter(f"{_A}p")]
    return "\n".join(line for line in lines if line.strip())


def _relations(archive: Archive, part: str) -> dict[str, tuple[str, str]]:
    """Relation id → (type, part) of what a part refers to inside the container."""
    folder, name = posixpath.split(part)
    path = f"{folder}/_rels/{name}.rels"
    if path not in archive.names:
        return {}
    found = {}
    for entry in archive.xml(path):
        if entry.get("TargetMode") != "External":
            target = posixpath.normpath(posixpath.join(folder, entry.get("Target", ""))).lstrip("/")
            found[entry.get("Id", "")] = (entry.get("Type", ""), target)
    return found
