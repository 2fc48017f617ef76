"""JSON and JSON lines: one block a record, "path: value" on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged
from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode


def parse(path: Path) -> Document:
    text, encoding = decode(path.read_bytes())
    builder = DocumentBuilder()
    if encoding not in ("utf-8", "utf-8-sig"):
        builder.notes.append(f"encoding: {encoding}")
    try:
        for record in _records(text):
            builder.add("\n".join(_lines(record, "")))
    except RecursionError as error:
        raise Damaged("It is nested too deeply.", code="damaged_json") from error
    return builder.build()


def _records(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError:
            raise Damaged(
                f"It is neither JSON nor JSON lines: {error}.",
                hint="Correct that place.",
                hint_zh="请修正该处。",
                code="damaged_json",
            ) from error
    return value if isinstance(value, list) else [value]


def _lines(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lines(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        if any(isinstance(inner, (dict, list)) for inner in value):
            for place, inner in enumerate(value):
                yield from _lines(inner, f"{path}[{place}]")
        else:
            yield f"{path}: " + ", ".join(str(inner) for inner in value)
    elif value is not None:
        yield f"{path}: {value}" if path else str(value)
