"""Mixture of data files by weight, and the rows held out for the evaluation."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ninestory.core.errors import InvalidRequest
from ninestory.floors.finetuning.examples import DataSource
from ninestory.training.batches import epoch_order

MAX_HELD_OUT = 200  # rows taken from the training data for the evaluation


@dataclass(frozen=True)
class Share:
    """Contribution of one file to an epoch: `used` of its `rows`, repetitions by weight counted."""

    name: str
    rows: int
    weight: float
    used: int


def held_out_places(rows: int, share: float, seed: int) -> list[int]:
    """Indices of the held-out rows, drawn by the seed; none from a single row."""
    count = min(MAX_HELD_OUT, max(1, round(share * rows))) if share and rows > 1 else 0
    return sorted(epoch_order(rows, seed, epoch=-1)[:count]) if count else []


def mix(
    sources: Sequence[DataSource], weights: Sequence[float], held_out: Collection[int], seed: int
) -> tuple[array[int], list[Share]]:
    """The rows of one epoch by place, and what each file gives.

    Args:
        weights: one a file: 1 takes each of its rows once an epoch, 2 twice, 0.5 a half of them, fraction by the seed;
            empty = all 1.
        held_out: places that are never learned.

    Raises:
        InvalidRequest: another number of weights than of files, or nothing is left.
    """
    if weights and len(weights) != len(sources):
        raise InvalidRequest(
            f"data.weights has {len(weights)} numbers; expected {len(sources)}, one per file of data.train.",
            hint="Give one weight for each file or folder of data.train, in its order.",
            hint_zh="请按 data.train 的顺序为每个文件或目录各给一个权重。",
            param="data.weights",
        )
    order, shares = array("Q"), []
    for number, source in enumerate(sources):
        weight = weights[number] if weights else 1.0
        places = array("Q", (i for i in range(source.start, source.end) if i not in held_out))
        start = len(order)
        for _ in range(int(weight)):
            order.extend(places)
        fraction = epoch_order(len(places), seed, epoch=-2 - number)[: round((weight % 1) * len(places))]
        order.extend(places[i] for i in sorted(fraction))
        shares.append(Share(source.name, source.rows, weight, len(order) - start))
    if not order:
        raise InvalidRequest(
            "data.weights leaves no row to train on.",
            hint="Raise a weight in data.weights; 1 takes every row of its file once.",
            hint_zh="请调大 data.weights 中的权重；1 表示该文件的每行各用一次。",
            param="data.weights",
            code="no_rows",
        )
    return order, shares
