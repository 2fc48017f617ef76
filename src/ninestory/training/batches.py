"""Which rows go into which step: a pure function of the seed and the step, so a resume needs one integer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

IGNORED = -100  # a label that is not learned
POOL = 50  # steps whose rows are sorted by length together: enough to be alike, few enough to be shuffled


@dataclass(frozen=True)
class Row:
    """One training text. `labels[i]` is `ids[i]` where it is learned, else −100; the first is never learned."""

    ids: list[int]
    labels: list[int]

    @property
    def learned(self) -> int:
        """Positions that count in the loss."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class Pair:
    """Two answers to one question. `reference`: log p of each under the base, (chosen, rejected)."""

    chosen: Row
    rejected: Row
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def ids(self) -> list[int]:
        """Both rows: what a micro-batch's budget counts."""
        return self.chosen.ids + self.rejected.ids

    @property
    def learned(self) -> int:
        """A pair counts once in the mean of a step."""
        return 1


def steps_per_epoch(rows: int, batch: int) -> int:
    return -(-rows // batch)


def rows_of_step(
    step: int, rows: int, batch: int, seed: int, *, length: Callable[[int], int] | None = None
) -> list[int]:
    """Indices of the rows of a step (from 0); each epoch is a permutation of its own, one of its steps may be short.

    Args:
        length: tokens of a row by its index: each step then takes rows of about one length. None = as they come.
    """
    per_epoch = steps_per_epoch(rows, batch)
    epoch, position = divmod(step, per_epoch)
    order = epoch_order(rows, seed, epoch)
    if length is None:
        return order[position * batch : (position + 1) * batch]
    pool, place = divmod(position, POOL)
    grouped = sorted(order[pool * POOL * batch : (pool + 1) * POOL * batch], key=lambda row: (length(row), row))
    shuffle = -1 - (epoch * steps_per_epoch(per_epoch, POOL) + pool)  # below 0: no epoch's own number
    turn = epoch_order(steps_per_epoch(len(grouped), batch), seed, shuffle)[place]
    return grouped[turn * batch : (turn + 1) * batch]


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the rows that depends on (seed, epoch) only."""
    import torch

    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(rows, generator=generator).tolist()


def micro_batches(lengths: Sequence[int], budget: int, *, padded: bool = False) -> list[list[int]]:
    """Split the rows of a step, in order, so that none exceeds `budget` tokens; a longer row goes alone.

    Args:
        lengths: tokens of each row.
        padded: count every row as long as the longest of its micro-batch.

    Returns:
        Positions into `lengths`.

    >>> micro_batches([5, 4, 3, 20, 2], 10)
    [[0, 1], [2], [3], [4]]
    """
    batches: list[list[int]] = []
    for position, length in enumerate(lengths):
        current = batches[-1] if batches else []
        widths = [*(lengths[i] for i in current), length]
        tokens = max(widths) * len(widths) if padded else sum(widths)
        if current and tokens <= budget:
            current.append(position)
        else:
            batches.append([position])
    return batches
