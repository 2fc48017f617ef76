"""A document as text with structure: what every parser gives and the chunker cuts.

Offsets are characters of `Document.text`, so a citation's passage is always `text[start:end]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

BlockKind = Literal["heading", "text", "table", "code"]
_BETWEEN = "\n\n"


class Block(NamedTuple):
    """One paragraph, heading, table or listing.

    Attributes:
        level: 1 to 6, of a heading.
        page: page, slide or sheet number from 1; None where the format has none.
    """

    start: int
    end: int
    kind: BlockKind
    level: int = 0
    page: int | None = None


@dataclass(frozen=True)
class Document:
    """`notes` says what a reader should know: the encoding that was detected, pages read by OCR."""

    text: str
    blocks: list[Block]
    notes: list[str] = field(default_factory=list)


class DocumentBuilder:
    """Joins blocks in reading order, a blank line between them."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._start = 0  # of the next block
        self._blocks: list[Block] = []
        self.notes: list[str] = []

    def add(self, text: str, kind: BlockKind = "text", *, level: int = 0, page: int | None = None) -> None:
        """Append a block; white space around it is dropped, and so is an empty one."""
        text = text.strip("\n").rstrip() if kind == "code" else text.strip()
        if not text:
            return
        end = self._start + len(text)
        self._blocks.append(Block(self._start, end, kind, level, page))
        self._pieces.append(text)
        self._start = end + len(_BETWEEN)

    def build(self) -> Document:
        return Document(_BETWEEN.join(self._pieces), self._blocks, self.notes)
