"""Significance of the difference between two models on the same cases."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """Mean difference of a metric between two models, with the 95 % interval of its paired bootstrap."""

    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def bootstrap_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Difference:
    """Mean of `second - first` and its 95 % percentile interval (Efron's paired bootstrap); zeros for no cases.

    Args:
        first, second: one metric value per case, in the same order of cases.

    Raises:
        ValueError: the lengths differ.
    """
    differences = [after - before for before, after in zip(first, second, strict=True)]
    if not differences:
        return Difference(0.0, 0.0, 0.0)
    generator = random.Random(seed)
    means = sorted(fmean(generator.choices(differences, k=len(differences))) for _ in range(RESAMPLES))
    return Difference(fmean(differences), means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1])


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test of right/wrong answers.

    Attributes:
        gained: cases that only the second model answers correctly.
        lost: cases that only the first model answers correctly.
        p_value: two-sided, from the binomial distribution with p = 1/2; 1 if no case differs.
    """

    gained: int
    lost: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Compare two models' correct and wrong answers on the same cases (McNemar 1947, exact form).

    >>> mcnemar([False] * 6, [True] * 6)
    McNemar(gained=6, lost=0, p_value=0.03125)

    Raises:
        ValueError: the lengths differ.
    """
    pairs = list(zip(first, second, strict=True))
    gained = sum(after and not before for before, after in pairs)
    lost = sum(before and not after for before, after in pairs)
    discordant = gained + lost
    tail = sum(math.comb(discordant, k) for k in range(min(gained, lost) + 1))
    return McNemar(gained, lost, min(1.0, 2 * tail / 2**discordant))
