"""What a run would learn from: rendered rows, lengths, cuts, duplicates, steps. Plain data; the callers draw it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ninestory.floors.finetuning.examples import Bad, Example
from ninestory.floors.finetuning.preparation import Prepared
from ninestory.models.plan_tuning import TuningPlan
from ninestory.tokenizers.tokenizer import Decoder, Tokenizer
from ninestory.training.batches import IGNORED

BARS = 10


@dataclass(frozen=True)
class Rendered:
    """One row as the model sees it: [(text, learned)], and where it came from."""

    file: str
    line: int
    tokens: int
    pieces: list[tuple[str, bool]]


@dataclass(frozen=True)
class Inspection:
    """Numbers and samples of a prepared run.

    Attributes:
        histogram: (shortest, longest, rows) of each bar, in tokens.
        learned_share: of all tokens, those that count in the loss.
    """

    form: str
    template: str
    rows: int
    held_out: int
    bad: list[Bad]
    bad_count: int
    duplicates: int
    cut: int
    tokens: int
    learned_share: float
    histogram: list[tuple[int, int, int]]
    steps: int
    plan: TuningPlan | None
    samples: list[Rendered]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data; the plan with its sum and verdict."""
        table = dataclasses.asdict(self)
        if self.plan:
            table["plan"] |= {"total_bytes": self.plan.total_bytes, "fits": self.plan.fits}
        return table


def inspect_run(prepared: Prepared, samples: int = 3) -> Inspection:
    """Look at a prepared run."""
    examples = [*prepared.train, *prepared.held_out]
    lengths = [len(example.row.ids) for example in examples]
    learned = sum(example.row.learned for example in examples)
    prompts = prepared.base.prompts
    return Inspection(
        form=prepared.found.form,
        template=f"{prompts.id} ({prompts.source})" if prompts else "",
        rows=len(prepared.train),
        held_out=len(prepared.held_out),
        bad=prepared.found.bad,
        bad_count=prepared.found.bad_count,
        duplicates=prepared.found.duplicates,
        cut=sum(example.cut for example in examples),
        tokens=sum(lengths),
        learned_share=learned / sum(lengths),
        histogram=histogram(lengths),
        steps=prepared.steps,
        plan=prepared.plan,
        samples=[rendered(example, prepared.base.tokenizer) for example in prepared.train[:samples]],
    )


def rendered(example: Example, tokenizer: Tokenizer) -> Rendered:
    """The row's text, cut where learning begins and ends; special tokens are shown by their spelling."""
    pieces: list[tuple[str, bool]] = []
    decoder = Decoder(tokenizer)
    for token, label in zip(example.row.ids, example.row.labels, strict=True):
        special = token in tokenizer.special_ids
        text = tokenizer.token_bytes(token).decode("utf-8", "replace") if special else decoder.push(token)
        learned = label != IGNORED
        if pieces and pieces[-1][1] == learned:
            pieces[-1] = (pieces[-1][0] + text, learned)
        else:
            pieces.append((text, learned))
    return Rendered(example.file, example.line, len(example.row.ids), pieces)


def histogram(lengths: list[int]) -> list[tuple[int, int, int]]:
    """Rows by length in at most ten equal bars.

    >>> histogram([1, 2, 9, 10])
    [(1, 1, 1), (2, 2, 1), (9, 9, 1), (10, 10, 1)]
    """
    low, high = min(lengths), max(lengths)
    width = -(-(high - low + 1) // BARS)
    bars = [(start, min(start + width - 1, high)) for start in range(low, high + 1, width)]
    counted = [(a, b, sum(a <= n <= b for n in lengths)) for a, b in bars]
    return [bar for bar in counted if bar[2]]
