"""Votes between two answers, as rated by `arena` and stored by the server."""

from __future__ import annotations

from dataclasses import dataclass

WINNERS = ("model_a", "model_b", "tie", "both_bad")


@dataclass(frozen=True)
class Battle:
    """One vote.

    Attributes:
        winner: one of `WINNERS`.
        style_a, style_b: counts of style features (tokens, headers, lists, bold), for `arena.style_controlled`.
    """

    model_a: str
    model_b: str
    winner: str
    style_a: tuple[int, ...] = ()
    style_b: tuple[int, ...] = ()
