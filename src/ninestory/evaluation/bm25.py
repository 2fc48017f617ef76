"""BM25 index over a growing set of short texts (Robertson's Okapi form, k1 1.5, b 0.75)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

K1, B = 1.5, 0.75


class BM25:
    """BM25 index of tokenised texts; scores always reflect all texts added so far."""

    def __init__(self) -> None:
        self.texts: list[Counter[str]] = []
        self.holders: Counter[str] = Counter()  # token → texts that hold it
        self.tokens = 0

    def add(self, text: Sequence[str]) -> None:
        """Add one tokenised text."""
        counts = Counter(text)
        self.texts.append(counts)
        self.holders.update(counts.keys())
        self.tokens += counts.total()

    def scores(self, query: Sequence[str]) -> list[float]:
        """Score every text against `query`, in insertion order."""
        return [self._score(query, counts) for counts in self.texts]

    def ceiling(self, query: Sequence[str]) -> float:
        """Score of `query` against a copy of itself: the upper bound."""
        return self._score(query, Counter(query))

    def _score(self, query: Sequence[str], counts: Counter[str]) -> float:
        mean = self.tokens / len(self.texts) if self.tokens else 1.0
        room = K1 * (1 - B + B * counts.total() / mean)
        return sum(self._idf(t) * counts[t] * (K1 + 1) / (counts[t] + room) for t in query if t in counts)

    def _idf(self, token: str) -> float:
        """Inverse document frequency, non-negative (the variant with 1 + inside the logarithm)."""
        held = self.holders[token]
        return math.log(1 + (len(self.texts) - held + 0.5) / (held + 0.5))
