"""ROUGE-N and ROUGE-L between two texts, for English words and Chinese characters.

Sources: Lin 2004; the English tokeniser is rouge_score's (lower case, everything but a–z and 0–9 separates, no stemmer).
It finds no tokens in Chinese, so evaluation uses `mixed_tokens`: words, and each CJK character as its own token.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_LATIN = re.compile(r"[a-z0-9]+")
_MIXED = re.compile(r"[㐀-䶿一-鿿豈-﫿぀-ヿ가-힯]|[^\W_㐀-䶿一-鿿豈-﫿぀-ヿ가-힯]+")


class RougeScore(NamedTuple):
    """Precision, recall and F1, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def latin_tokens(text: str) -> list[str]:
    """rouge_score's tokens: runs of a–z and 0–9 of the lower-cased text."""
    return _LATIN.findall(text.lower())


def mixed_tokens(text: str) -> list[str]:
    """Words of the lower-cased text, with each Chinese, Japanese or Korean character as a token of its own."""
    return _MIXED.findall(text.lower())


def rouge_n(target: Sequence[str], prediction: Sequence[str], n: int) -> RougeScore:
    """Overlap of the n-grams of two token sequences."""
    wanted, made = _ngrams(target, n), _ngrams(prediction, n)
    return _score((wanted & made).total(), wanted.total(), made.total())


def rouge_l(target: Sequence[str], prediction: Sequence[str]) -> RougeScore:
    """Longest common subsequence of two token sequences."""
    return _score(_longest_common(target, prediction), len(target), len(prediction))


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence; one row of the table at a time."""
    row = [0] * (len(right) + 1)
    for token in left:
        diagonal = 0
        for j, other in enumerate(right, start=1):
            above = row[j]
            row[j] = diagonal + 1 if token == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def _score(common: int, wanted: int, made: int) -> RougeScore:
    if not common:
        return RougeScore(0.0, 0.0, 0.0)
    precision, recall = common / made, common / wanted
    return RougeScore(precision, recall, 2 * precision * recall / (precision + recall))
