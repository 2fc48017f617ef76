"""Word and character error rates: edits (Levenshtein) per unit of the reference, summed over a corpus."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Normalizer = Callable[[str], str]
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class ErrorRate:
    """Edits and reference units of a corpus; the rate exceeds 1 where more is inserted than the reference has."""

    edits: int
    units: int

    @property
    def rate(self) -> float:
        """Edits per unit; 0 for an empty reference without edits, infinity for one with edits."""
        return self.edits / self.units if self.units else float("inf") if self.edits else 0.0


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Insertions, deletions and substitutions that turn one sequence into the other (Levenshtein 1965).

    >>> edit_distance("kitten", "sitting")
    3
    """
    previous = list(range(len(hypothesis) + 1))
    for row, expected in enumerate(reference, 1):
        current = [row]
        for column, actual in enumerate(hypothesis, 1):
            current.append(
                min(previous[column] + 1, current[column - 1] + 1, previous[column - 1] + (expected != actual))
            )
        previous = current
    return previous[-1]


def word_error_rate(pairs: Iterable[tuple[str, str]], normalize: Normalizer = str.strip) -> ErrorRate:
    """Error rate over words separated by white space.

    Args:
        pairs: (reference, hypothesis) of each utterance.
        normalize: applied to both sides first, for example lower case without punctuation.
    """
    return _corpus_rate((normalize(a).split(), normalize(b).split()) for a, b in pairs)


def character_error_rate(pairs: Iterable[tuple[str, str]], normalize: Normalizer = str.strip) -> ErrorRate:
    """Error rate over characters without white space: the measure for scripts that do not separate words."""
    return _corpus_rate((list(_SPACE.sub("", normalize(a))), list(_SPACE.sub("", normalize(b)))) for a, b in pairs)


def _corpus_rate(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> ErrorRate:
    edits = units = 0
    for reference, hypothesis in pairs:
        edits += edit_distance(reference, hypothesis)
        units += len(reference)
    return ErrorRate(edits, units)
