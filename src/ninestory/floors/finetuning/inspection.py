"""A look at a run's data: rendered rows, lengths, cuts, duplicates, steps. Plain data; callers draw it."""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ninestory.floors.finetuning.example_file import TrainingExample
from ninestory.floors.finetuning.examples import SkippedRow
from ninestory.floors.finetuning.mixture import Share
from ninestory.floors.finetuning.preparation import PreparedRun
from ninestory.tokenizers.tokenizer import StreamingDetokenizer, Tokenizer
from ninestory.training.batches import IGNORED, TokenRow
from ninestory.training.plan import TuningPlan

BARS = 10


@dataclass(frozen=True)
class RenderedRow:
    """One row as the model sees it: [(text, learned)], and where it came from; `rejected`: with the worse answer."""

    file: str
    line: int
    tokens: int
    pieces: list[tuple[str, bool]]
    rejected: list[tuple[str, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """Numbers and samples of a prepared run.

    Attributes:
        shares: what each file gives to an epoch.
        lost_questions, lost_greetings: rows that lost a last turn without an answer, or a first turn of the assistant.
        histogram: (shortest, longest, rows) of each bar, in tokens.
        learned_share: of all tokens, those that count in the loss.
        seconds: of all steps, by their arithmetic and the speed of one block of the model, timed just now
            (training/duration.py); without evaluations. None: the model states no shape.
    """

    format: str
    template: str
    rows: int
    held_out: int
    shares: list[Share]
    invalid: list[SkippedRow]
    invalid_count: int
    lost_questions: int
    lost_greetings: int
    duplicates: int
    cut: int
    tokens: int
    learned_share: float
    histogram: list[tuple[int, int, int]]
    steps: int
    seconds: float | None
    plan: TuningPlan | None
    samples: list[RenderedRow]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data; the plan with its sums and devices."""
        table = dataclasses.asdict(self)
        if self.plan:
            table["plan"] = self.plan.as_dict()
        return table


def inspect_run(prepared: PreparedRun, samples: int = 3) -> Inspection:
    """Inspect a prepared run."""
    lengths, learned, cut = array("I"), 0, 0
    for example in itertools.chain(prepared.train, prepared.held_out):
        lengths.append(example.tokens)
        learned += example.row.weight + (example.rejected.weight if example.rejected else 0)
        cut += example.cut
    prompts = prepared.base.prompts
    return Inspection(
        format=prepared.examples.format,
        template=f"{prompts.id} ({prompts.source})" if prompts else "",
        rows=len(prepared.train),
        held_out=len(prepared.held_out),
        shares=prepared.shares,
        invalid=prepared.examples.invalid,
        invalid_count=prepared.examples.invalid_count,
        lost_questions=prepared.examples.lost_questions,
        lost_greetings=prepared.examples.lost_greetings,
        duplicates=prepared.examples.duplicates,
        cut=cut,
        tokens=sum(lengths),
        learned_share=learned / sum(lengths),
        histogram=histogram(lengths),
        steps=prepared.steps,
        seconds=_seconds(prepared),
        plan=prepared.plan,
        samples=[rendered(example, prepared.base.tokenizer) for example in prepared.train[:samples]],
    )


def _seconds(prepared: PreparedRun) -> float | None:
    from ninestory.training.duration import step_seconds

    plan, shape, batches = prepared.plan, prepared.base.shape, prepared.batches
    if plan is None or shape is None:
        return None
    precision = prepared.recipe.train.precision
    return prepared.steps * step_seconds(shape, plan.job, batches.tokens, batches.labels, precision)


def rendered(example: TrainingExample, tokenizer: Tokenizer) -> RenderedRow:
    """The row's text, cut where learning begins and ends; special tokens are shown by their spelling."""
    rejected = _pieces(example.rejected, tokenizer) if example.rejected else []
    return RenderedRow(example.file, example.line, example.tokens, _pieces(example.row, tokenizer), rejected)


def _pieces(row: TokenRow, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    decoder = StreamingDetokenizer(tokenizer)
    for token, label in zip(row.ids, row.labels, strict=True):
        special = token in tokenizer.special_ids
        text = tokenizer.token_bytes(token).decode("utf-8", "replace") if special else decoder.push(token)
        learned = label != IGNORED
        if pieces and pieces[-1][1] == learned:
            pieces[-1] = (pieces[-1][0] + text, learned)
        else:
            pieces.append((text, learned))
    return pieces


def histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Rows by length in at most ten equal bars.

    >>> histogram([1, 2, 9, 10])
    [(1, 1, 1), (2, 2, 1), (9, 9, 1), (10, 10, 1)]
    """
    low, high = min(lengths), max(lengths)
    width = -(-(high - low + 1) // BARS)
    bars = [(start, min(start + width - 1, high)) for start in range(low, high + 1, width)]
    counts = Counter((length - low) // width for length in lengths)
    return [(*bar, counts[number]) for number, bar in enumerate(bars) if counts[number]]
