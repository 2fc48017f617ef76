"""4-bit linears in plain torch: NF4 and FP4 blocks with double quantisation, in bitsandbytes' file layout.

    packed   uint8, two codes a byte, the earlier weight in the high nibble, row-major over the flattened [out, in]
    absmax   one scale a block of 64 (or 128) weights: float32, or with double quantisation an 8-bit code
    nested_absmax, offset   absmax = dynamic_map()[code] · nested_absmax[block of 256] + offset

The packed weight is widened for one product at a time and again in the backward pass, so adapters are trained on top
while the model stays at about 4.13 bits a weight (QLoRA, Dettmers et al. 2023, sections 3 and appendix E).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Code = Literal["nf4", "fp4"]
NESTED_BLOCK = 256  # absmax values that share one second-level scale

# The 16 values of each code by index, in float32 as bitsandbytes has them.
CODE_VALUES: dict[str, tuple[float, ...]] = {
    "nf4": (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
    "fp4": tuple(
        sign * value
        for sign in (1.0, -1.0)
        for value in (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
    ),
}


def dynamic_map() -> torch.Tensor:
    """The 256 signed values of the second level, ascending, float32: seven decades, each halved once more than the last.

    Source: the dynamic tree data type of "8-bit Approximations for Parallelism in Deep Learning" (Dettmers 2015), in
    the form bitsandbytes builds it: midpoints of an even division of [0.1, 1] scaled by powers of ten, 0 and 1.
    """
    positive = torch.cat(
        [
            10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2
            for decade in range(7)
            for edges in [torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)]
        ]
    )
    return torch.cat((-positive, positive, torch.tensor([0.0, 1.0]))).sort().values


@cache
def _sorted_code(code: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(midpoints between neighbouring values [n − 1], index of each value in ascending order [n])."""
    values = dynamic_map() if code == "dynamic" else torch.tensor(CODE_VALUES[code])
    ascending, order = values.sort(stable=True)
    return (ascending[:-1] + ascending[1:]) / 2, order


def _nearest(scaled: torch.Tensor, code: str) -> torch.Tensor:
    """Index of the value of `code` nearest to each entry of `scaled`, uint8."""
    midpoints, order = (part.to(scaled.device) for part in _sorted_code(code))
    return order[torch.bucketize(scaled, midpoints)].to(torch.uint8)


def _blocks(flat: torch.Tensor, size: int) -> torch.Tensor:
    """[n] → [⌈n / size⌉, size], the last block filled with zeros (which change no absolute maximum)."""
    return F.pad(flat, (0, -flat.numel() % size)).view(-1, size)


@dataclass(frozen=True)
class QuantState:
    """Everything but the packed codes. With double quantisation `absmax` is uint8 and the nested pair is set."""

    code: Code
    blocksize: int
    dtype: torch.dtype
    shape: tuple[int, int]
    absmax: torch.Tensor  # [blocks] float32 or uint8
    nested_absmax: torch.Tensor | None = None  # [⌈blocks / 256⌉] float32
    offset: torch.Tensor | None = None  # scalar float32

    def scales(self) -> torch.Tensor:
        """The float32 scale of each block [blocks]."""
        if self.nested_absmax is None or self.offset is None:
            return self.absmax
        codes = _blocks(self.absmax, NESTED_BLOCK)
        wide = F.embedding(codes.int(), dynamic_map().to(codes.device)[:, None]).squeeze(-1)
        return (wide * self.nested_absmax[:, None]).flatten()[: self.absmax.numel()] + self.offset

    def bits_per_weight(self) -> float:
        """Stored bits a weight, scales counted: 4.127 for NF4 with double quantisation and blocks of 64."""
        count = self.shape[0] * self.shape[1]
        kept = (self.absmax, self.nested_absmax, self.offset)
        return 4 + 8 * sum(part.numel() * part.element_size() for part in kept if part is not None) / count


def quantize(
    weight: torch.Tensor, code: Code = "nf4", blocksize: int = 64, double: bool = True
) -> tuple[torch.Tensor, QuantState]:
    """Quantise `weight` [out, in] of any floating dtype.

    Returns:
        packed: uint8 [⌈out · in / 2⌉].
        state: the scales and what is needed to undo it.
    """
    blocks = _blocks(weight.detach().flatten().float(), blocksize)
    absmax = blocks.abs().amax(dim=1)  # [blocks]
    scaled = (blocks / absmax[:, None]).nan_to_num(0.0)  # a block of zeros
    codes = _nearest(scaled, code).flatten()[: weight.numel()]
    codes = F.pad(codes, (0, codes.numel() % 2))
    packed = (codes[0::2] << 4) | codes[1::2]
    shape = (weight.shape[0], weight.shape[1])
    if not double:
        return packed, QuantState(code, blocksize, weight.dtype, shape, absmax)
    offset = absmax.mean()
    nested = _blocks(absmax - offset, NESTED_BLOCK)
    nested_absmax = nested.abs().amax(dim=1)
    codes = _nearest((nested / nested_absmax[:, None]).nan_to_num(0.0), "dynamic").flatten()[: absmax.numel()]
    return packed, QuantState(code, blocksize, weight.dtype, shape, codes, nested_absmax, offset)


def dequantize(packed: torch.Tensor, state: QuantState, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The weight [out, in] in `dtype` (default: the one it was quantised from); products are taken in float32."""
    count = state.shape[0] * state.shape[1]
    pairs = _pair_values(state.code).to(packed.device)
    values = F.embedding(packed.flatten().int(), pairs).flatten()[:count]  # one look-up gives both halves of a byte
    scaled = _blocks(values, state.blocksize).mul_(state.scales()[:, None])
    return scaled.flatten()[:count].view(state.shape).to(dtype or state.dtype)


@cache
def _pair_values(code: str) -> torch.Tensor:
    """[256, 2]: the two values that each byte encodes."""
    values = torch.tensor(CODE_VALUES[code])
    byte = torch.arange(256)
    return torch.stack((values[byte >> 4], values[byte & 15]), dim=1)


class _Nf4Matmul(torch.autograd.Function):
    """y = x · Wᵀ with W widened on the fly; only the packed W is kept for the backward pass."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, packed: torch.Tensor, state: QuantState) -> torch.Tensor:
        ctx.save_for_backward(packed)
        ctx.state = state
        return F.linear(x, dequantize(packed, state, x.dtype))

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (packed,) = ctx.saved_tensors
        return grad @ dequantize(packed, ctx.state, grad.dtype), None, None


class NF4Linear(nn.Module):
    """A frozen linear over 4-bit blocks. Saves and loads bitsandbytes' keys (`weight`, `weight.absmax`, …).

    Raises on loading (as torch reports it, by key): a missing part, sizes that do not belong together.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, code: Code = "nf4") -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        packed, self.state = quantize(torch.zeros(out_features, in_features), code)
        self.weight = nn.Parameter(packed[:, None], requires_grad=False)  # [out · in / 2, 1]
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None

    @classmethod
    def empty(cls, state: QuantState, bias: bool) -> NF4Linear:
        """An NF4Linear on the meta device with the scales of `state`; the packed weight is loaded later."""
        outputs, inputs = state.shape
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module.in_features, module.out_features, module.state = inputs, outputs, state
        packed = torch.empty(-(-inputs * outputs // 2), 1, dtype=torch.uint8, device="meta")
        module.weight = nn.Parameter(packed, requires_grad=False)
        module.bias = nn.Parameter(torch.empty(outputs, device="meta"), requires_grad=False) if bias else None
        return module

    @classmethod
    def from_linear(cls, linear: nn.Linear, code: Code = "nf4", blocksize: int = 64, double: bool = True) -> NF4Linear:
        """Quantise an existing linear; its bias is kept."""
        module = cls(linear.in_features, linear.out_features, bias=False, code=code)
        packed, module.state = quantize(linear.weight, code, blocksize, double)
        module.weight = nn.Parameter(packed[:, None], requires_grad=False)
        if linear.bias is not None:
            module.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        return module

    def to_linear(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """The plain linear of the dequantised weights: the base that adapters trained here may be merged into."""
        module = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        module.weight = nn.Parameter(dequantize(self.weight, self.state, dtype), requires_grad=False)
        if self.bias is not None:
            module.bias = nn.Parameter(self.bias.detach().to(module.weight.dtype), requires_grad=False)
        return module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = _Nf4Matmul.apply(x, self.weight, self.state)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, code={self.state.code}"

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self.state = _moved(self.state, self.weight.device)
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key, tensor in state_tensors(self.state).items():
            destination[f"{prefix}weight.{key}"] = tensor

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:
        start = f"{prefix}weight."
        parts = {key[len(start) :]: state_dict.pop(key) for key in list(state_dict) if key.startswith(start)}
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        if not parts:
            missing.append(f"{start}absmax")
            return
        try:
            loaded = read_state(parts)
        except (KeyError, ValueError) as error:
            errors.append(f"{start}*: {error}")
            return
        if loaded.shape != (self.out_features, self.in_features):
            errors.append(
                f"{start}*: made for a weight of {loaded.shape}, not of {(self.out_features, self.in_features)}"
            )
            return
        self.state = _moved(loaded, self.weight.device)


def state_tensors(state: QuantState) -> dict[str, torch.Tensor]:
    """The tensors bitsandbytes stores beside a packed weight, without their `weight.` prefix."""
    header: dict[str, object] = {
        "quant_type": state.code,
        "blocksize": state.blocksize,
        "dtype": str(state.dtype).removeprefix("torch."),
        "shape": list(state.shape),
    }
    tensors = {"absmax": state.absmax, "quant_map": torch.tensor(CODE_VALUES[state.code])}
    if state.nested_absmax is not None and state.offset is not None:
        header |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": state.offset.item()}
        tensors |= {"nested_absmax": state.nested_absmax, "nested_quant_map": dynamic_map()}
    text = json.dumps(header).encode()
    return tensors | {f"quant_state.bitsandbytes__{state.code}": torch.tensor(list(text), dtype=torch.uint8)}


def read_state(parts: dict[str, torch.Tensor]) -> QuantState:
    """Inverse of `state_tensors`.

    Raises:
        KeyError: a part is missing.
        ValueError: the header is not what bitsandbytes writes, or the sizes contradict it.
    """
    name = next((key for key in parts if key.startswith("quant_state.bitsandbytes__")), "quant_state.bitsandbytes__nf4")
    header = json.loads(bytes(parts[name].tolist()))
    code, blocksize, shape = header["quant_type"], header["blocksize"], tuple(header["shape"])
    if code not in CODE_VALUES or header["dtype"] not in ("float32", "float16", "bfloat16") or len(shape) != 2:
        raise ValueError(f"unknown 4-bit header {header}")
    blocks = -(-shape[0] * shape[1] // blocksize)
    if parts["absmax"].numel() != blocks:
        raise ValueError(
            f"absmax has {parts['absmax'].numel()} scales; expected {blocks}, one per block of {blocksize}"
        )
    nested = "nested_absmax" in parts
    if nested and header["nested_blocksize"] != NESTED_BLOCK:
        raise ValueError(f"nested_blocksize is {header['nested_blocksize']}; expected {NESTED_BLOCK}")
    return QuantState(
        code,
        blocksize,
        getattr(torch, header["dtype"]),
        shape,
        parts["absmax"],
        parts["nested_absmax"] if nested else None,
        torch.tensor(header["nested_offset"]) if nested else None,
    )


def _moved(state: QuantState, device: torch.device) -> QuantState:
    """The same state with its tensors on `device`."""
    moved = [None if part is None else part.to(device) for part in (state.absmax, state.nested_absmax, state.offset)]
    assert moved[0] is not None
    return QuantState(state.code, state.blocksize, state.dtype, state.shape, moved[0], moved[1], moved[2])
