"""The default: passages of whole sentences under one heading, within the embedding model's token budget.

A passage never crosses a heading or the end of a page, so the page it is cited with is the page it stands on. Its
`context` (heading path, a table's first row) is embedded and searched with it, but is no part of `text`, which is
always `document.text[start:end]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ninestory.floors.retrieval.document import Block, Document

CountTokens = Callable[[str], int]

_SENTENCE = re.compile(r"[^。！？!?；\n.]*(?:[。！？!?；]+[”’」』）)\"']*|\.+(?=\s|$)[”’\"')]*|\n|[.!?]+|$)\s*")
_CLAUSE = re.compile(r"[^，,、：:;\s]*(?:[，,、：:;]+|\s+|$)")
_MAX_CONTEXT_CHARACTERS = 160


@dataclass(frozen=True)
class Chunk:
    """One passage.

    Attributes:
        start, end: characters in the document's text.
        page: the page it stands on; None where the format has no pages.
        headings: from the outermost to the nearest.
        context: what is embedded before the text.
    """

    text: str
    start: int
    end: int
    page: int | None
    headings: tuple[str, ...] = ()
    context: str = ""

    @property
    def searched(self) -> str:
        """What is embedded and indexed."""
        return f"{self.context}\n{self.text}" if self.context else self.text


@dataclass(frozen=True)
class _Piece:
    """A sentence, a table's row or a line of a listing."""

    start: int
    end: int
    tokens: int
    page: int | None
    head: str = ""  # the table's first row


@dataclass(frozen=True)
class _Section:
    headings: tuple[str, ...]
    blocks: list[Block]


def chunk_document(
    document: Document, count_tokens: CountTokens, *, max_tokens: int = 240, overlap_tokens: int = 32
) -> list[Chunk]:
    """Cut a document.

    Args:
        count_tokens: the embedding model's own count of a text.
        max_tokens: the most of one passage, its context included; a table's or listing's line is cut too when longer.
        overlap_tokens: whole sentences of at most this length are repeated at the start of the next passage.
    """
    chunks: list[Chunk] = []
    for section in _sections(document):
        context = " > ".join(section.headings)[-_MAX_CONTEXT_CHARACTERS:]
        room = max(max_tokens - (count_tokens(context) if context else 0), max_tokens // 2)
        pieces = [p for block in section.blocks for p in _pieces(document.text, block, count_tokens, room)]
        for group in _packed(pieces, room, overlap_tokens):
            text = document.text[group[0].start : group[-1].end]
            start = group[0].start + len(text) - len(text.lstrip())
            text = text.strip()
            if not text:
                continue
            head = group[0].head if group[0].head and not text.startswith(group[0].head) else ""
            chunks.append(
                Chunk(
                    text=text,
                    start=start,
                    end=start + len(text),
                    page=group[0].page,
                    headings=section.headings,
                    context="\n".join(filter(None, (context, head))),
                )
            )
    return chunks


def _sections(document: Document) -> Iterator[_Section]:
    """Runs of blocks of one page under one heading path. A heading with nothing below it is a passage of its own."""
    path: list[tuple[int, str]] = []
    blocks: list[Block] = []
    bare: Block | None = None  # the last heading, while nothing stands below it
    for block in document.blocks:
        if block.kind != "heading":
            if blocks and blocks[-1].page != block.page:
                yield _Section(tuple(title for _, title in path), blocks)
                blocks = []
            blocks.append(block)
            bare = None
            continue
        if blocks:
            yield _Section(tuple(title for _, title in path), blocks)
            blocks = []
        if bare is not None and bare.level >= block.level:
            yield _Section(tuple(title for _, title in path[:-1]), [bare])
        while path and path[-1][0] >= block.level:
            path.pop()
        path.append((block.level, document.text[block.start : block.end]))
        bare = block
    if blocks:
        yield _Section(tuple(title for _, title in path), blocks)
    elif bare is not None:
        yield _Section(tuple(title for _, title in path[:-1]), [bare])


def _pieces(text: str, block: Block, count_tokens: CountTokens, room: int) -> Iterator[_Piece]:
    head = ""
    if block.kind == "table":
        head = text[block.start : block.end].split("\n", 1)[0][:_MAX_CONTEXT_CHARACTERS]
        room = max(room - count_tokens(head), room // 2)
    for start, end in _units(text, block):
        tokens = count_tokens(text[start:end])
        if tokens <= room:
            yield _Piece(start, end, tokens, block.page, head)
            continue
        for part_start, part_end in _cut(text, start, end, room / tokens):
            yield _Piece(part_start, part_end, count_tokens(text[part_start:part_end]), block.page, head)


def _units(text: str, block: Block) -> Iterator[tuple[int, int]]:
    """Sentences of prose, lines of tables and listings."""
    if block.kind == "text":
        for match in _SENTENCE.finditer(text, block.start, block.end):
            if match.end() > match.start():
                yield match.span()
        return
    start = block.start
    for line in text[block.start : block.end].splitlines(keepends=True):
        yield start, start + len(line)
        start += len(line)


def _cut(text: str, start: int, end: int, share: float) -> Iterator[tuple[int, int]]:
    """An over-long unit in parts of at most `share` of it, at clauses where there are any, else anywhere."""
    size = max(int((end - start) * share * 0.9), 1)
    begin = place = start
    for match in _CLAUSE.finditer(text, start, end):
        if match.end() - begin > size and place > begin:
            yield begin, place
            begin = place
        while match.end() - begin > size:
            yield begin, begin + size
            begin += size
        place = match.end()
    if begin < end:
        yield begin, end


def _packed(pieces: list[_Piece], room: int, overlap_tokens: int) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    tokens = 0
    for piece in pieces:
        if group and tokens + piece.tokens > room:
            yield group
            group = _tail(group, min(overlap_tokens, room - piece.tokens))
            tokens = sum(p.tokens for p in group)
        group.append(piece)
        tokens += piece.tokens
    if group:
        yield group


def _tail(group: list[_Piece], most: int) -> list[_Piece]:
    kept: list[_Piece] = []
    for piece in reversed(group[1:]):
        most -= piece.tokens
        if most < 0:
            break
        kept.insert(0, piece)
    return kept
