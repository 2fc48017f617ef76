"""Source code and configuration: listings cut at blank lines before a line that starts at the margin."""

from __future__ import annotations

import re
from pathlib import Path

from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode
from ninestory.floors.retrieval.parsing.text import normalised


def parse(path: Path) -> Document:
    text, encoding = decode(path.read_bytes())
    builder = DocumentBuilder()
    if encoding not in ("utf-8", "utf-8-sig"):
        builder.notes.append(f"encoding: {encoding}")
    for part in re.split(r"\n{2,}(?=\S)", normalised(text)):
        builder.add(part, "code")
    return builder.build()
