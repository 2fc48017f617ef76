"""How well a model predicts a text: perplexity a token and bits a byte (which compares across vocabularies)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Perplexity:
    """Over `tokens` of a text of `nbytes` bytes of UTF-8."""

    tokens: int
    nbytes: int
    perplexity: float
    bits_per_byte: float


def measure(text: str, score: Callable[[str], list[float]], window: int = 1000) -> Perplexity:
    """Perplexity of a text, read in pieces of whole lines.

    Args:
        score: the log-probability (natural) of each token of a text.
        window: characters of a piece, at most; a longer line is cut.
    """
    values = [value for piece in _pieces(text, window) for value in score(piece)]
    mean = sum(values) / len(values)
    nbytes = len(text.encode())
    return Perplexity(len(values), nbytes, math.exp(-mean), -sum(values) / math.log(2) / nbytes)


def _pieces(text: str, window: int) -> list[str]:
    pieces = [""]
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), window):
            part = line[start : start + window]
            if pieces[-1] and len(pieces[-1]) + len(part) > window:
                pieces.append("")
            pieces[-1] += part
    return [piece for piece in pieces if piece.strip()]
