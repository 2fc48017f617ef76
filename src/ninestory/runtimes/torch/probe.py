"""A self-check at load: which packed linear gives a row the same bits whoever its neighbours are, and which is fastest.

Nothing is chosen by the name of a processor: MKL's strict mode works on Intel only, oneDNN's single-row kernel agrees
with the others for some shapes and not for others.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from ninestory.runtimes.torch.packed_linear import (
    MklLinear,
    OneDnnLinear,
    PackedLinear,
    PairedOneDnnLinear,
    RowByRowLinear,
    linears,
)

_STEPS = (2, 3, 4, 5, 8, 16, 33, 64)  # rows of the steps that are compared with one of `_MOST` rows
_MOST = 71  # seven rows that decode beside a chunk
_CLEARLY_FASTER = 0.8  # of the time, or a choice would change from start to start, and the bits with it


@dataclass(frozen=True)
class Choice:
    """The packed linear of each (out, in) shape, and one line for the log."""

    classes: dict[tuple[int, int], type[PackedLinear]]
    note: str


@torch.inference_mode()
def choose_linears(model: nn.Module) -> Choice:
    """The fastest invariant packed linear for each shape of the model's float32 linears."""
    classes = {shape: _choose(linear.weight) for shape, linear in linears(model).items()}
    counts = Counter(chosen.__name__ for chosen in classes.values())
    names = ", ".join(f"{name} for {count} shape(s)" for name, count in counts.items())
    return Choice(classes, f"linears whose rows do not depend on their neighbours: {names}")


def is_invariant(linear: PackedLinear) -> bool:
    """Whether a row's bits are the same alone and in steps of other sizes, at the first place and at the last."""
    x = torch.randn(_MOST, linear.in_features, generator=torch.Generator().manual_seed(0))
    y = linear(x)
    return (
        all(torch.equal(linear(x[i : i + 1])[0], y[i]) for i in (0, 1, 2, 7, _MOST - 1))
        and all(torch.equal(linear(x[:m]), y[:m]) for m in _STEPS)
        and torch.equal(linear(x[-8:]), y[-8:])
    )


def _choose(weight: torch.Tensor) -> type[PackedLinear]:
    mkl, onednn = _made(MklLinear, weight), _made(OneDnnLinear, weight)
    if onednn is None:
        onednn = _made(PairedOneDnnLinear, weight)
    if mkl and onednn:
        return type(mkl) if _seconds(mkl) * _CLEARLY_FASTER < _seconds(onednn) else type(onednn)
    return type(mkl or onednn or RowByRowLinear(weight, None))


def _made(candidate: type[PackedLinear], weight: torch.Tensor) -> PackedLinear | None:
    """The candidate, or None where its rows depend on one another or this build of torch lacks its library."""
    try:
        linear = candidate(weight, None)
    except (AttributeError, RuntimeError):
        return None
    return linear if is_invariant(linear) else None


def _seconds(linear: PackedLinear) -> float:
    """A step of one row, counted twice, and one of eight; the best of three each."""
    return 2 * _best(linear, 1) + _best(linear, 8)


def _best(linear: PackedLinear, rows: int) -> float:
    x, times = torch.ones(rows, linear.in_features), []
    for _ in range(3):
        started = time.perf_counter()
        linear(x)
        times.append(time.perf_counter() - started)
    return min(times)
