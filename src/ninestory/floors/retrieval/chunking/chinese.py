"""The two sentence splitters of langchain-ChatGLM 0.1.17 (`ChineseTextSplitter`), exactly as they behave.

Kept for comparison and for knowledge bases that must be cut as before; the default is `structure.py`. Known habits
that belong to the original: a line break after the dot in "3.14", and replacement of an over-long piece at the
first place where its text occurs.
"""

from __future__ import annotations

import re

_CLOSING = '["’”」』]{0,2}'

# Each rule inserts a line break between its two groups; in this order.
_SENTENCE_BREAKS = (
    re.compile(r"([;；.!?。！？])([^”’])"),
    re.compile(r"(\.{6})([^\"’”」』])"),
    re.compile(r"(…{2})([^\"’”」』])"),
    re.compile(rf"([;；!?。！？]{_CLOSING})([^;；!?，。！？])"),
)
# What cuts a piece that is still too long, weakest last.
_LONG_BREAKS = (
    re.compile(rf"([,，.]{_CLOSING})([^,，.])"),
    re.compile(rf"(\n+| {{2,}}{_CLOSING})(\S)"),
    re.compile(rf"( {_CLOSING})([^ ])"),
)
_SHORT_END = re.compile(rf"([﹒﹔﹖﹗．。！？]{_CLOSING}|(?=[\"‘“「『]{{1,2}}|$))")


def split_long(text: str, sentence_size: int = 100, *, pdf: bool = False) -> list[str]:
    """The default ("long sentence") splitter.

    Args:
        sentence_size: characters above which a piece is cut again at commas, then at blanks. A piece without any
            stays longer.
        pdf: line breaks of a page are layout: turn all white space into blanks first.
    """
    if pdf:
        text = _unwrapped(text)
    for rule in _SENTENCE_BREAKS:
        text = _broken(text, rule)
    pieces = [piece for piece in text.rstrip().split("\n") if piece]
    return _cut_long(pieces, sentence_size, 0)


def split_short(text: str, *, pdf: bool = False) -> list[str]:
    """The short variant: whole sentences, cut before an opening quotation mark too."""
    if pdf:
        text = _unwrapped(text)
    sentences: list[str] = []
    for piece in _SHORT_END.split(text):
        if sentences and _SHORT_END.match(piece):
            sentences[-1] += piece
        elif piece:
            sentences.append(piece)
    return sentences


def _unwrapped(text: str) -> str:
    return re.sub(r"\s", " ", re.sub(r"\n{3,}", "\n", text))


def _broken(text: str, rule: re.Pattern[str]) -> str:
    return rule.sub(r"\1\n\2", text)


def _cut_long(pieces: list[str], size: int, level: int) -> list[str]:
    """Replace every piece longer than `size` by what the rule of `level` and the later ones make of it."""
    result = pieces
    for piece in pieces:
        if len(piece) <= size:
            continue
        parts = _broken(piece, _LONG_BREAKS[level]).split("\n")
        if level + 1 < len(_LONG_BREAKS):
            parts = _cut_long(parts, size, level + 1)
        place = result.index(piece)
        result = [*result[:place], *filter(None, parts), *result[place + 1 :]]
    return result
