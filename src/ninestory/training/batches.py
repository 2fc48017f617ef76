"""Training rows, and the rows of each step: a pure function of seed and step, so a resume needs one integer."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

IGNORED = -100  # a label that is not learned
EVALUATION = -1  # the step of held-out rows
POOL = 50  # steps whose rows are sorted by length together: enough to be alike, few enough to be shuffled


class TrainingRow(Protocol):
    """Size and weight of a row, all that the trainer needs."""

    @property
    def size(self) -> float:
        """Cost in the objective's `unit`; the micro-batch budget counts it."""

    @property
    def weight(self) -> float:
        """Share of the row in the mean loss of its step, such as its number of labels."""


@runtime_checkable
class RandomRows(Protocol):
    """A sequence of rows that differ each time they are read: noise, crops, dropped captions.

    The trainer reads such rows by `draw` with a seed made of (run, step, row), so what a row is does not depend on
    micro-batches, processes or resumes. Held-out rows keep one seed for the whole run.
    """

    def __len__(self) -> int: ...

    def draw(self, index: int, seed: int) -> Any: ...


@dataclass(frozen=True)
class TokenRow:
    """One training text. `labels[i]` is `ids[i]` where it is learned, else −100; the first is never learned."""

    ids: list[int]
    labels: list[int]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    @property
    def weight(self) -> int:
        """Number of labels, the positions that count in the loss."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one question. `reference`: log p of each under the base, (chosen, rejected)."""

    chosen: TokenRow
    rejected: TokenRow
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def size(self) -> int:
        """Number of tokens of both rows."""
        return self.chosen.size + self.rejected.size

    @property
    def weight(self) -> int:
        """A pair counts once in the mean of a step."""
        return 1


def steps_per_epoch(rows: int, batch: int) -> int:
    return -(-rows // batch)


def row_seed(seed: int, step: int, row: int) -> int:
    """Return the seed of everything random about one row in one step, from 0 to 2⁶³ − 1.

    Args:
        seed: of the run. step: from 0; `EVALUATION` for held-out rows. row: index of the row.
    """
    digest = hashlib.blake2b(struct.pack("<qqq", seed, step, row), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def read_rows(rows: Sequence[Any], indices: Iterable[int], *, seed: int, step: int) -> list[Any]:
    """Read rows by index; `RandomRows` are drawn with their seed of (run, step, row)."""
    if isinstance(rows, RandomRows):
        return [rows.draw(index, row_seed(seed, step, index)) for index in indices]
    return [rows[index] for index in indices]


def rows_of_step(
    step: int, rows: int, batch: int, seed: int, *, length: Callable[[int], float] | None = None
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


def micro_batches(sizes: Sequence[float], budget: float, *, padded: bool = False) -> list[list[int]]:
    """Split the rows of a step, in order, so that none exceeds `budget`; a larger row goes alone.

    Args:
        sizes: `row.size` of each row, such as its tokens.
        padded: count every row as large as the largest of its micro-batch.

    Returns:
        Positions into `sizes`.

    >>> micro_batches([5, 4, 3, 20, 2], 10)
    [[0, 1], [2], [3], [4]]
    """
    batches: list[list[int]] = []
    for position, size in enumerate(sizes):
        current = batches[-1] if batches else []
        members = [*(sizes[i] for i in current), size]
        cost = max(members) * len(members) if padded else sum(members)
        if current and cost <= budget:
            current.append(position)
        else:
            batches.append([position])
    return batches
