"""A model before and after tuning, on the same held-out rows: what changed, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ninestory.evaluation.bleu import bleu4
from ninestory.evaluation.paired import Difference, bootstrap_difference
from ninestory.evaluation.rouge import mixed_tokens, rouge_l, rouge_n

MOST_FORGOTTEN = 0.05  # growth of the general text's loss above which the verdict warns


@dataclass(frozen=True)
class HeldOutExample:
    """One held-out row: what the model is given, and what it should answer."""

    prompt: str
    target: str


@dataclass(frozen=True)
class OverlapMetrics:
    """Each in 0 … 1. Words, or characters where the text is Chinese; BLEU over characters."""

    rouge_1: float
    rouge_2: float
    rouge_l: float
    bleu_4: float
    exact: float


@dataclass(frozen=True)
class ModelScores:
    """Losses, answers and metrics of one model over all cases.

    Attributes:
        loss: mean −log p of a token; where preferences are learned, the mean loss of a pair.
        general_loss: on text that has nothing to do with the task.
        preferred: where preferences are learned: share of the pairs whose better answer gained more on the base.
    """

    loss: float
    general_loss: float | None
    answers: list[str]
    each: list[OverlapMetrics]
    preferred: float | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    def mean(self, name: str) -> float:
        """Mean of one field of `OverlapMetrics` over the cases; 0 where no answers were made."""
        return fmean(getattr(metrics, name) for metrics in self.each) if self.each else 0.0


@dataclass(frozen=True)
class Comparison:
    cases: list[HeldOutExample]
    base: ModelScores
    tuned: ModelScores
    rouge_l: Difference

    @property
    def forgotten(self) -> float | None:
        """Growth of the loss on general text, as a share of it."""
        before, after = self.base.general_loss, self.tuned.general_loss
        return None if before is None or after is None else after / before - 1

    @property
    def verdict(self) -> str:
        """better, worse or unclear: by the loss, and by ROUGE-L where answers were made and are what is learned."""
        gained = self.tuned.loss < self.base.loss
        if self.tuned.preferred is not None:
            return "better" if gained else "worse"
        if not self.base.each or not self.rouge_l.certain:
            return ("better" if gained else "worse") if not self.base.each else "unclear"
        if (self.rouge_l.value > 0) != gained:
            return "unclear"
        return "better" if gained else "worse"


def score(target: str, prediction: str) -> OverlapMetrics:
    """The overlap of one answer with what was wanted."""
    wanted, made = mixed_tokens(target), mixed_tokens(prediction)
    return OverlapMetrics(
        rouge_n(wanted, made, 1).f1,
        rouge_n(wanted, made, 2).f1,
        rouge_l(wanted, made).f1,
        bleu4(target.strip(), prediction.strip()),
        float(target.strip() == prediction.strip()),
    )


def measure(
    cases: Sequence[HeldOutExample],
    loss: float,
    general_loss: float | None,
    generate: Callable[[str], str] | None,
) -> ModelScores:
    """One side of the comparison. Without `generate` only the losses are kept."""
    answers = [generate(case.prompt) for case in cases] if generate else []
    each = [score(case.target, answer) for case, answer in zip(cases, answers, strict=False)]
    return ModelScores(loss, general_loss, answers, each)


def compare(cases: Sequence[HeldOutExample], base: ModelScores, tuned: ModelScores, seed: int = 0) -> Comparison:
    """Put two sides together; the interval resamples cases, the same ones for both (paired bootstrap)."""
    before, after = ([metrics.rouge_l for metrics in side.each] for side in (base, tuned))
    return Comparison(list(cases), base, tuned, bootstrap_difference(before, after, seed))
