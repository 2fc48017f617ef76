"""Guanaco's data (artidoro/qlora): its seven data sets as (source, target) pairs, and the ids and labels made of them.

A pair is cut on either side of the border: source = <s> + question, target = answer + </s>, each to its own limit, so
a target that had to be cut has lost its end mark. Only the target is learned, unless `train_on_source`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...core.errors import InvalidRequest
from ...models.templates import render

IGNORED = -100  # the label that no loss is taken on


@dataclass(frozen=True)
class SourceTarget:
    """Context and learned text of a row. `length`: characters, by which rows are grouped."""

    source: str
    target: str

    @property
    def length(self) -> int:
        return len(self.source) + len(self.target)


def _alpaca(row: Mapping[str, Any]) -> SourceTarget:
    question = {"role": "user", "content": row["instruction"], "input": row.get("input") or ""}
    return SourceTarget(render("alpaca-qlora", [question]), row["output"])


def _chip2(row: Mapping[str, Any]) -> SourceTarget:
    """Only the first reply of the dialogue is kept."""
    question, reply = row["text"].split("\n<bot>: ", 1)
    return SourceTarget(question.replace("<human>: ", ""), reply.split("\n<human>: ")[0].split("\n<bot>: ")[0])


def _dialogue(column: str) -> Callable[[Mapping[str, Any]], SourceTarget]:
    return lambda row: SourceTarget("", row[column])  # the whole text is learned, the human's turns too


FORMATS: dict[str, Callable[[Mapping[str, Any]], SourceTarget]] = {
    "alpaca": _alpaca,
    "chip2": _chip2,
    "self-instruct": lambda row: SourceTarget(row["prompt"], row["completion"]),
    "hh-rlhf": _dialogue("chosen"),
    "oasst1": _dialogue("text"),
    "input-output": lambda row: SourceTarget(row.get("input") or "", row["output"]),
}
# Which form each published data set has.
DATASETS = {
    "alpaca": "alpaca",
    "alpaca-clean": "alpaca",
    "chip2": "chip2",
    "self-instruct": "self-instruct",
    "hh-rlhf": "hh-rlhf",
    "oasst1": "oasst1",
    "longform": "input-output",
}


def source_target(row: Mapping[str, Any], dataset: str, form: str | None = None) -> SourceTarget:
    """One row of `dataset` (a name of `DATASETS`) as a pair; `form` (of `FORMATS`) overrides the data set's own.

    Raises:
        InvalidRequest: an unknown name, or a column the form needs is not there.
    """
    name = form or DATASETS.get(dataset)
    if name not in FORMATS:
        raise InvalidRequest(
            f"The data set is {form or dataset!r}; expected one of {', '.join(DATASETS)}, or a format.",
            hint=f"Known data sets: {', '.join(DATASETS)}; forms: {', '.join(FORMATS)}.",
            hint_zh=f"已知数据集：{'、'.join(DATASETS)}；格式：{'、'.join(FORMATS)}。",
            param="dataset",
        )
    try:
        return FORMATS[name](row)
    except (KeyError, ValueError) as error:
        raise InvalidRequest(
            f"The row has the columns {sorted(row)}; the format {name!r} expects others ({error}).",
            hint="Name another form, or rename the columns.",
            hint_zh="请指定其他格式，或修改列名。",
            param="dataset",
        ) from error


def sample(
    made: SourceTarget,
    encode: Callable[[str], list[int]],
    bos: int,
    eos: int,
    *,
    source_max: int = 1024,
    target_max: int = 256,
    train_on_source: bool = False,
) -> tuple[list[int], list[int]]:
    """Ids and labels of one pair, not padded. `encode` adds no special tokens."""
    source = [bos, *encode(made.source)][:source_max]
    target = [*encode(made.target), eos][:target_max]
    learned = source if train_on_source else [IGNORED] * len(source)
    return source + target, learned + target
