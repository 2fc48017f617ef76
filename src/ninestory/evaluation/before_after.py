"""Comparison of a model before and after tuning on the same held-out rows, with confidence intervals."""

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
    """One held-out row: a prompt and its target answer."""

    prompt: str
    target: str


@dataclass(frozen=True)
class OverlapMetrics:
    """Overlap with the target, each in [0, 1]. ROUGE over words (characters for Chinese), BLEU over characters."""

    rouge_1: float
    rouge_2: float
    rouge_l: float
    bleu_4: float
    exact: float


@dataclass(frozen=True)
class ModelScores:
    """Losses, answers and metrics of one model over all cases.

    Attributes:
        loss: mean negative log-likelihood per token; in preference tuning, the mean loss per pair.
        general_loss: loss on text unrelated to the task.
        preferred: in preference tuning, the reward accuracy: share of pairs whose chosen answer gained more.
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
        """Mean of one field of `OverlapMetrics` over the cases; 0 if no answers were generated."""
        return fmean(getattr(metrics, name) for metrics in self.each) if self.each else 0.0


@dataclass(frozen=True)
class Comparison:
    cases: list[HeldOutExample]
    base: ModelScores
    tuned: ModelScores
    rouge_l: Difference

    @property
    def forgotten(self) -> float | None:
        """Relative growth of the loss on general text, or None if it was not measured."""
        before, after = self.base.general_loss, self.tuned.general_loss
        return None if before is None or after is None else after / before - 1

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "unclear", by the loss and, if answers were generated, by ROUGE-L."""
        gained = self.tuned.loss < self.base.loss
        if self.tuned.preferred is not None:
            return "better" if gained else "worse"
        if not self.base.each or not self.rouge_l.certain:
            return ("better" if gained else "worse") if not self.base.each else "unclear"
        if (self.rouge_l.value > 0) != gained:
            return "unclear"
        return "better" if gained else "worse"


def score(target: str, prediction: str) -> OverlapMetrics:
    """Compute the overlap of one prediction with its target."""
    target_tokens, predicted = mixed_tokens(target), mixed_tokens(prediction)
    return OverlapMetrics(
        rouge_n(target_tokens, predicted, 1).f1,
        rouge_n(target_tokens, predicted, 2).f1,
        rouge_l(target_tokens, predicted).f1,
        bleu4(target.strip(), prediction.strip()),
        float(target.strip() == prediction.strip()),
    )


def measure(
    cases: Sequence[HeldOutExample],
    loss: float,
    general_loss: float | None,
    generate: Callable[[str], str] | None,
) -> ModelScores:
    """Evaluate one model on the cases. Without `generate` only the losses are kept."""
    answers = [generate(case.prompt) for case in cases] if generate else []
    each = [score(case.target, answer) for case, answer in zip(cases, answers, strict=False)]
    return ModelScores(loss, general_loss, answers, each)


def compare(cases: Sequence[HeldOutExample], base: ModelScores, tuned: ModelScores, seed: int = 0) -> Comparison:
    """Compare two models; the interval is a paired bootstrap over cases."""
    before, after = ([metrics.rouge_l for metrics in side.each] for side in (base, tuned))
    return Comparison(list(cases), base, tuned, bootstrap_difference(before, after, seed))
