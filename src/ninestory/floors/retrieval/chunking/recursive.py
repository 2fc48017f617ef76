"""The splitter of Langchain-Chatchat 0.2 (`ChineseRecursiveTextSplitter`), with langchain's merge rule, exactly."""

from __future__ import annotations

import re

SEPARATORS = (r"\n\n", r"\n", r"。|！|？", r"\.\s|\!\s|\?\s", r"；|;\s", r"，|,\s")


def split_recursive(text: str, chunk_size: int = 250, chunk_overlap: int = 50) -> list[str]:
    """Cut at the first separator that occurs, join short neighbours up to `chunk_size`, cut long ones further.

    Args:
        chunk_size, chunk_overlap: characters. A piece without any separator stays longer.
    """
    return _split(text, SEPARATORS, chunk_size, chunk_overlap)


def _split(text: str, separators: tuple[str, ...], size: int, overlap: int) -> list[str]:
    level = next((i for i, s in enumerate(separators) if re.search(s, text)), None)
    weaker = separators[level + 1 :] if level is not None else ()
    chunks: list[str] = []
    short: list[str] = []
    for piece in _pieces(text, separators[-1] if level is None else separators[level]):
        if len(piece) < size:
            short.append(piece)
            continue
        chunks += _merged(short, size, overlap)
        short = []
        chunks += _split(piece, weaker, size, overlap) if weaker else [piece]
    chunks += _merged(short, size, overlap)
    return [re.sub(r"\n{2,}", "\n", chunk.strip()) for chunk in chunks if chunk.strip()]


def _pieces(text: str, separator: str) -> list[str]:
    """The text cut after each match of `separator`, which stays at the end of its piece."""
    ends = [match.end() for match in re.finditer(separator, text)]
    pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


def _merged(pieces: list[str], size: int, overlap: int) -> list[str]:
    """langchain 0.0.354's merge rule: fill up to `size`, then keep at most `overlap` characters of whole pieces."""
    chunks: list[str] = []
    window: list[str] = []
    length = 0
    for piece in pieces:
        if window and length + len(piece) > size:
            chunks.append("".join(window).strip())
            while length > overlap or (length > 0 and length + len(piece) > size):
                length -= len(window.pop(0))
        window.append(piece)
        length += len(piece)
    chunks.append("".join(window).strip())
    return [chunk for chunk in chunks if chunk]
