"""One vote between two answers: what the ratings (`arena`) count and the server keeps."""

from __future__ import annotations

from dataclasses import dataclass

WINNERS = ("model_a", "model_b", "tie", "both_bad")


@dataclass(frozen=True)
class Battle:
    """One vote.

    Attributes:
        winner: one of `WINNERS`.
        style_a, style_b: counts of what makes an answer look good without being so (tokens, headers, lists, bold);
            only `arena.style_controlled` reads them.
    """

    model_a: str
    model_b: str
    winner: str
    style_a: tuple[int, ...] = ()
    style_b: tuple[int, ...] = ()
