"""Perplexity per token, and bits per byte, which is comparable across vocabularies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ninestory.evaluation.task import EvalCase, EvalTask, TaskResult


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a text of `tokens` tokens and `nbytes` UTF-8 bytes."""

    tokens: int
    nbytes: int
    perplexity: float
    bits_per_byte: float


def task(text: str, window: int = 1000) -> EvalTask:
    """Build a scoring task from a text, split at line ends; an output is a list of token log-probabilities.

    Args:
        window: maximum characters per piece; longer lines are split.
    """
    return EvalTask(
        name="perplexity",
        asked="score",
        cases=[EvalCase(str(number), piece) for number, piece in enumerate(_pieces(text, window))],
        metrics={"nats": lambda case, output: -sum(output), "tokens": lambda case, output: len(output)},
    )


def summarize(text: str, result: TaskResult) -> Perplexity:
    """Perplexity and bits per byte of the text from the scores of its pieces."""
    nats, tokens = sum(result.values("nats")), int(sum(result.values("tokens")))
    nbytes = len(text.encode())
    return Perplexity(tokens, nbytes, math.exp(nats / tokens), nats / math.log(2) / nbytes)


def _pieces(text: str, window: int) -> list[str]:
    pieces = [""]
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), window):
            part = line[start : start + window]
            if pieces[-1] and len(pieces[-1]) + len(part) > window:
                pieces.append("")
            pieces[-1] += part
    return [piece for piece in pieces if piece.strip()]
