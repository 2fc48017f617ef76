"""Learning rates over the steps of a run."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate(step: int, total: int, peak: float, warmup: int, schedule: Schedule) -> float:
    """The rate of a step (from 0): linear warm-up from 0 to `peak`, then the schedule down to 0 at `total`.

    >>> [round(learning_rate(s, 10, 1.0, 2, "linear"), 3) for s in (0, 1, 2, 6)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    done = (step - warmup) / max(1, total - warmup)
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done)
