"""ChatRWKV's strategy strings: which layer runs where, in which dtype ("cuda fp16i8 *10 -> cpu fp32").

A part is `device dtype[i8] [*N[+]]`: the next N layers, or without N an equal share of the remaining layers. `*N+`
keeps N layers on the device and streams all others through it from CPU memory. The final norm and the head count as
one more layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from ninestory.core.errors import InvalidRequest, Unsupported

_PART = re.compile(r"(cuda(?::\d+)?|cpu|mps|dml) (fp16|fp32|bf16)(i8|i4|i3)?(?: \*(\d+)(\+)?)?")
_DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}
HALVED_EVERY = 6  # layers, where any part computes in float16


@dataclass(frozen=True)
class LayerPlan:
    """Placement of one layer: device ("cuda:1", …), dtype of activations, and storage of its matrices."""

    device: str
    dtype: torch.dtype
    int8: bool = False
    streamed: bool = False


@dataclass(frozen=True)
class Strategy:
    """`layers`: one plan for each block, then one for the final norm and head. `halved_every`: see `RwkvConfig`."""

    layers: list[LayerPlan]
    halved_every: int = 0


@dataclass(frozen=True)
class _StrategyPart:
    device: str
    dtype: str
    suffix: str
    count: int | None
    streams: bool


def parse_strategy(text: str, blocks: int) -> Strategy:
    """Resolve a strategy for a model of `blocks` blocks, by the allocation of BlinkDL/ChatRWKV's loader.

    `i4` and `i3` are accepted and change nothing, as there.

    Raises:
        InvalidRequest: the strategy is malformed.
    """
    parts = [_part(piece, text) for piece in re.split(r" *-> *", text)]
    if sum(part.streams for part in parts) > 1:
        raise _wrong(text, "two parts have a '+'; expected at most one")
    left = blocks + 1
    counts: list[int] = [0] * len(parts)
    for i, part in enumerate(parts):
        counts[i] = min(part.count or 0, left)
        left -= counts[i]
    open_parts = [i for i, part in enumerate(parts) if part.count is None]
    streaming = next((i for i, part in enumerate(parts) if part.streams), None)
    if streaming is None:
        for taken, i in enumerate(open_parts):
            counts[i] = left // (len(open_parts) - taken)
            left -= counts[i]
        if not open_parts:
            counts[-1] += left
    layers: list[LayerPlan] = []
    for i, part in enumerate(parts):
        plan = LayerPlan(part.device, _DTYPES[part.dtype], int8=part.suffix == "i8")
        layers += [plan] * counts[i]
        if i == streaming:
            layers += [LayerPlan(plan.device, plan.dtype, plan.int8, streamed=True)] * left
    return Strategy(layers, HALVED_EVERY if "fp16" in text else 0)


def refuse_missing_devices(strategy: Strategy) -> None:
    """Check that every device of the strategy is available, before anything is loaded.

    Raises:
        Unsupported: a device is missing; the hint names a strategy for the CPU.
    """
    for device in sorted({plan.device for plan in strategy.layers}):
        kind, _, number = device.partition(":")
        here = {
            "cpu": True,
            "cuda": torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count(),
            "mps": torch.backends.mps.is_available(),
        }.get(kind, False)
        if not here:
            raise Unsupported(
                f"The strategy's device {device!r} is not available on this machine or in this build of torch.",
                hint="Write 'cpu fp32', or 'cpu fp32i8' for a quarter of the memory.",
                hint_zh="请改用 cpu fp32；若内存紧张可用 cpu fp32i8（约为四分之一）。",
                param="strategy",
            )


def _part(piece: str, text: str) -> _StrategyPart:
    match = _PART.fullmatch(piece)
    if match is None:
        raise _wrong(text, f"{piece!r} is not `device dtype`")
    device, dtype, suffix, count, plus = match.groups()
    return _StrategyPart(device, dtype, suffix or "", None if count is None else int(count), bool(plus))


def _wrong(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The strategy {text!r} is invalid: {why}.",
        hint="Write parts as 'device dtype[i8] [*N[+]]', for example 'cuda fp16i8 *10 -> cpu fp32'.",
        hint_zh="每段形如 device dtype[i8] [*N[+]]，例如 cuda fp16i8 *10 -> cpu fp32。",
        param="strategy",
    )
