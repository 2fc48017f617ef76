"""Prompt comparison: every prompt variant on every case with every model, with scores, tokens and cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ninestory.evaluation.checks import score

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class TrialAnswer:
    """A model's answer with its token usage."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Trial:
    """Result of one variant, model and case. `fault`: why there is no answer (the score is then 0)."""

    variant: str
    model: str
    case: int
    score: float
    answer: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    fault: str = ""


@dataclass(frozen=True)
class TrialSummary:
    """A variant with a model over all cases. Tokens and seconds are sums; `cost` is in the currency of the prices."""

    variant: str
    model: str
    cases: int
    mean: float
    worst: float
    faults: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cost: float


def trials(
    variants: Mapping[str, Callable[[int], Messages]],
    checks: Sequence[Sequence[dict[str, Any]]],
    model: str,
    ask: Callable[[str, Messages], TrialAnswer],
    *,
    expected: type[Exception],
) -> Iterator[Trial]:
    """Run all variants on all cases with one model.

    Args:
        variants: name → the messages of case number n.
        checks: the checks of each case.
        ask: (variant's name, messages) → the model's answer.
        expected: errors of this type are recorded as a fault of the trial; others end the run.
    """
    for name, messages in variants.items():
        for number, demanded in enumerate(checks):
            started = time.perf_counter()
            try:
                answer = ask(name, messages(number))
            except expected as error:
                yield Trial(name, model, number, 0.0, "", 0, 0, time.perf_counter() - started, str(error))
                continue
            seconds = time.perf_counter() - started
            tokens = (answer.prompt_tokens, answer.completion_tokens)
            yield Trial(name, model, number, score(answer.text, demanded), answer.text, *tokens, seconds)


def table(results: Sequence[Trial], price_in: float = 0.0, price_out: float = 0.0) -> list[TrialSummary]:
    """Summarise the trials by variant and model, best mean first.

    Args:
        price_in, price_out: price per million prompt and completion tokens.
    """
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in results:
        groups.setdefault((trial.variant, trial.model), []).append(trial)
    rows = []
    for (variant, model), group in groups.items():
        scores = [trial.score for trial in group]
        prompt, completion = sum(t.prompt_tokens for t in group), sum(t.completion_tokens for t in group)
        seconds, faults = sum(t.seconds for t in group), sum(bool(t.fault) for t in group)
        cost = (prompt * price_in + completion * price_out) / 1e6
        mean = sum(scores) / len(scores)
        rows.append(
            TrialSummary(variant, model, len(group), mean, min(scores), faults, prompt, completion, seconds, cost)
        )
    return sorted(rows, key=lambda row: (-row.mean, row.cost, row.seconds))
