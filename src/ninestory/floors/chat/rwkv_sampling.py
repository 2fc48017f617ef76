"""How ChatRWKV chooses the next token: top-p on the plain softmax first, then top-k, then the temperature.

The order differs from everyone else's, so the same numbers give other texts elsewhere. One uniform number a token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class RwkvSampling:
    """The package's settings and its defaults. temperature 0 = the likeliest token."""

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    presence: float = 0.2
    frequency: float = 0.2
    decay: float = 0.996


def probabilities(logits: Floats, temperature: float = 1.0, top_p: float = 0.85, top_k: int = 0) -> Floats:
    """The distribution that a token is drawn from, float32 [vocab].

    Where rounding keeps the whole sum below top_p (it happens at 1.0), only the likeliest stays, as in the original.
    """
    import torch

    if temperature == 0:
        temperature, top_p = 1.0, 0.0
    kept: Floats = torch.softmax(torch.tensor(np.asarray(logits, dtype=np.float32)), dim=-1).numpy()
    order = np.argsort(kept)
    falling = kept[order][::-1]
    cutoff = falling[np.argmax(np.cumsum(falling) >= top_p)]
    kept[kept < cutoff] = 0
    if 0 < top_k < len(kept):
        kept[order[:-top_k]] = 0
    if temperature != 1.0:
        kept = kept ** (1.0 / temperature)
    return kept / np.sum(kept)


def draw(distribution: Floats, uniform: float) -> int:
    """The token at which the running sum passes `uniform`, a number in [0, 1)."""
    running = np.cumsum(distribution, dtype=np.float64)
    return int(np.searchsorted(running / running[-1], uniform, side="right"))


class Penalty:
    """What a token that was there already loses: presence + frequency · count, the counts fading with every token."""

    def __init__(self, sampling: RwkvSampling) -> None:
        self._sampling = sampling
        self._counts: dict[int, float] = {}

    def apply(self, logits: Floats) -> None:
        """Lower the logits in place."""
        for token, count in self._counts.items():
            logits[token] -= self._sampling.presence + count * self._sampling.frequency

    def add(self, token: int, weight: float = 1.0) -> None:
        """Count a drawn token; weight 0 for what may repeat freely (`counted`)."""
        for seen in self._counts:
            self._counts[seen] *= self._sampling.decay
        self._counts[token] = self._counts.get(token, 0.0) + weight


def counted(text: str) -> float:
    """The weight of a token by its text, as the package's own `generate` has it: blanks and digits may repeat."""
    return 0.0 if text in " \t0123456789" else 1.0


def sample(logits: Floats, sampling: RwkvSampling, penalty: Penalty, uniform: float, banned: Iterable[int] = ()) -> int:
    """One token: bans, penalty, distribution, draw. `logits` are changed."""
    for token in banned:
        logits[token] = -np.inf
    penalty.apply(logits)
    return draw(probabilities(logits, sampling.temperature, sampling.top_p, sampling.top_k), uniform)
