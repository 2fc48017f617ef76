"""A self-check at load: which linear gives a row the same bits whoever its neighbours are, and which is fastest.

Nothing is chosen by the name of a processor or of a type: MKL's strict mode works on Intel only, oneDNN's single-row
kernel agrees with the others for some shapes and not for others, and bfloat16 is many times faster than float32 on one
processor and many times slower on another. In `fast` mode only the time counts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ninestory.runtimes.torch.packed_linear import (
    MklLinear,
    OneDnnLinear,
    PackedLinear,
    PairedOneDnnLinear,
    PlainLinear,
    RowByRowLinear,
    linears,
)

_STEPS = (2, 3, 4, 5, 8, 16, 33, 64)  # rows of the steps that are compared with one of `_MOST` rows
_MOST = 71  # seven rows that decode beside a chunk
_CLEARLY_FASTER = 0.8  # of the time, or a choice would change from start to start, and the bits with it

# In the order in which they are preferred when none is clearly faster.
_INVARIANT: dict[torch.dtype, tuple[type[PackedLinear], ...]] = {
    torch.float32: (MklLinear, OneDnnLinear, PairedOneDnnLinear),
    torch.bfloat16: (OneDnnLinear, PairedOneDnnLinear),
}
_FAST: dict[torch.dtype, tuple[type[PackedLinear], ...]] = {
    torch.float32: (PlainLinear, MklLinear, OneDnnLinear),
    torch.bfloat16: (PlainLinear, OneDnnLinear),
}

Shape = tuple[int, int]  # (out, in)


@dataclass(frozen=True)
class Choice:
    """The type to compute in, the linear of each shape, and one line for the log."""

    dtype: torch.dtype
    classes: dict[Shape, type[PackedLinear]]
    note: str


@dataclass(frozen=True)
class _Timed:
    kind: type[PackedLinear]
    seconds: float


@torch.inference_mode()
def choose_linears(model: nn.Module, *, dtypes: Sequence[torch.dtype] = (torch.float32,), fast: bool = False) -> Choice:
    """The fastest linear for each shape of the model's float32 linears, in the fastest of `dtypes`.

    Args:
        dtypes: the first is kept unless another one is clearly faster over all linears together. One that has no
            linear that keeps the promise is left out; as the first (bfloat16 that was asked for) it goes without.
        fast: also linears whose rows may depend on their neighbours.
    """
    found, counts = linears(model), _counts(model)
    plans = {dtype: _plan(found, dtype, fast) for dtype in dtypes}
    if plans[dtypes[0]] is None:
        fast, plans[dtypes[0]] = True, _plan(found, dtypes[0], True)
    kept = {dtype: plan for dtype, plan in plans.items() if plan is not None}
    seconds = {d: sum(counts[shape] * timed.seconds for shape, timed in plan.items()) for d, plan in kept.items()}
    best = dtypes[0]
    for dtype in kept:
        if seconds[dtype] < _CLEARLY_FASTER * seconds[best]:
            best = dtype
    classes = {shape: timed.kind for shape, timed in kept[best].items()}
    return Choice(best, classes, _note(best, classes, {d: seconds.get(d) for d in dtypes}, fast))


def is_invariant(linear: PackedLinear, dtype: torch.dtype = torch.float32) -> bool:
    """Whether a row's bits are the same alone and in steps of other sizes, at the first place and at the last."""
    x = torch.randn(_MOST, linear.in_features, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = linear(x)
    return (
        all(torch.equal(linear(x[i : i + 1])[0], y[i]) for i in (0, 1, 2, 7, _MOST - 1))
        and all(torch.equal(linear(x[:m]), y[:m]) for m in _STEPS)
        and torch.equal(linear(x[-8:]), y[-8:])
    )


def _plan(found: Mapping[Shape, nn.Linear], dtype: torch.dtype, fast: bool) -> dict[Shape, _Timed] | None:
    """The linear of each shape, or None where one shape has none."""
    plan = {}
    for shape, linear in found.items():
        timed = _choose(linear.weight.to(dtype), fast)
        if timed is None:
            return None
        plan[shape] = timed
    return plan


def _choose(weight: torch.Tensor, fast: bool) -> _Timed | None:
    """None: no linear of this type keeps the promise; float32 always has one."""
    best: _Timed | None = None
    for kind in (_FAST if fast else _INVARIANT)[weight.dtype]:
        if kind is PairedOneDnnLinear and best is not None and best.kind is OneDnnLinear:
            continue  # doubled only where it must be
        if (linear := _made(kind, weight, fast)) is None:
            continue
        timed = _Timed(kind, _seconds(linear, weight.dtype))
        if best is None or timed.seconds < (1 if fast else _CLEARLY_FASTER) * best.seconds:
            best = timed
    if best is None and weight.dtype == torch.float32:
        return _Timed(RowByRowLinear, _seconds(RowByRowLinear(weight, None), weight.dtype))
    return best


def _made(kind: type[PackedLinear], weight: torch.Tensor, fast: bool) -> PackedLinear | None:
    """The candidate, or None where its rows depend on one another or this build of torch lacks its library."""
    try:
        linear = kind(weight, None)
        return linear if fast or is_invariant(linear, weight.dtype) else None
    except (AttributeError, RuntimeError):
        return None


def _seconds(linear: PackedLinear, dtype: torch.dtype) -> float:
    """A step of one row, counted twice, and one of eight; the best of three each."""
    return 2 * _best(linear, 1, dtype) + _best(linear, 8, dtype)


def _best(linear: PackedLinear, rows: int, dtype: torch.dtype) -> float:
    x, times = torch.ones(rows, linear.in_features, dtype=dtype), []
    for _ in range(3):
        started = time.perf_counter()
        linear(x)
        times.append(time.perf_counter() - started)
    return min(times)


def _counts(model: nn.Module) -> Counter[Shape]:
    """How many linears there are of each shape."""
    return Counter(tuple(module.weight.shape) for module in model.modules() if isinstance(module, nn.Linear))  # type: ignore[misc]


def _note(
    best: torch.dtype, classes: dict[Shape, type[PackedLinear]], seconds: dict[torch.dtype, float | None], fast: bool
) -> str:
    promise = "the fastest linears: last bits may depend on what else runs" if fast else ""
    promise = promise or "linears whose rows do not depend on their neighbours"
    names = Counter(kind.__name__ for kind in classes.values())
    kinds = ", ".join(f"{name} for {count} shape(s)" for name, count in names.items())
    note = f"{promise}: {kinds}"
    if len(seconds) > 1:
        times = ", ".join(f"{_name(d)} {_times(s)}" for d, s in seconds.items())
        note += f"; {_name(best)}, timed at load (two steps of one token and one of eight): {times}"
    return note


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _times(seconds: float | None) -> str:
    return "not without neighbours changing its bits" if seconds is None else f"{1000 * seconds:.1f} ms"
