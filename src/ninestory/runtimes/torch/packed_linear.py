"""Linears whose weights are laid out once for the processor.

A matrix product may add up a row in another order when it has other neighbours. Each class here but `PlainLinear` is
free of that on some processors; `probe.py` finds out which ones on this one. The original weight can be freed after
the making.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class PackedLinear(nn.Module):
    """A linear on a CPU: [..., in_features] → [..., out_features]. float32, some kinds also bfloat16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """[M, in_features] → [M, out_features]"""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class MklLinear(PackedLinear):
    """MKL's packed sgemm. Invariant under MKL_CBWR=AUTO,STRICT on Intel processors."""

    # How many rows the packing is made for: other figures were slower somewhere between 1 and 64 rows, and may give
    # other bits, so all linears have this one.
    _ROWS = 256

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach().contiguous(), self._ROWS)
        self._shape_only = torch.empty(1).expand(weight.shape)  # only its shape is read

    def product(self, x: torch.Tensor) -> torch.Tensor:
        # Unless the last argument is the number of rows, the product is silently taken with `_shape_only`.
        return torch.ops.mkl._mkl_linear(x.contiguous(), self._packed, self._shape_only, self.bias, x.shape[0])


class OneDnnLinear(PackedLinear):
    """oneDNN's blocked weights. Mostly invariant from two rows on; a single row has a kernel of its own."""

    _ROWS = 64

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), self._ROWS)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), self._packed, self.bias, "none", [], "")


class PairedOneDnnLinear(OneDnnLinear):
    """oneDNN with a single row doubled, so that its kernel is that of several rows."""

    def product(self, x: torch.Tensor) -> torch.Tensor:
        return super().product(x.expand(2, -1))[:1] if x.shape[0] == 1 else super().product(x)


class PlainLinear(PackedLinear):
    """torch's own product of the weight as it is: what the others are measured against where no bits are promised."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._weight = weight.detach().contiguous()

    def product(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self.bias)


class RowByRowLinear(PackedLinear):
    """One matrix-vector product a row: invariant everywhere, and as slow for many rows as they are many."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._weight = weight.detach().contiguous()

    def product(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.stack([torch.mv(self._weight, row) for row in x])
        return rows if self.bias is None else rows + self.bias


class Int8Linear(PackedLinear):
    """Weights in int8 with a scale a row, activations in 8 bits with a scale a token (fbgemm): 1.2 % error a product.

    fbgemm takes one range for all rows of a call. Here each row is divided by its own largest value and a sentinel row
    of +1 and −1 is added, so the range is always the same; sums of integers do not depend on their order.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        weight = weight.detach().float()
        scales = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self._packed = _fbgemm_packed(weight, scales)
        self._seven_bits = eight_bits_overflow()
        sentinel = torch.zeros(1, self.in_features)
        sentinel[0, :2] = torch.tensor([1.0, -1.0])
        self._sentinel = sentinel

    def product(self, x: torch.Tensor) -> torch.Tensor:
        largest = x.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        rows = torch.cat((x / largest, self._sentinel))
        y = torch.ops.quantized.linear_dynamic(rows, self._packed, self._seven_bits)[:-1] * largest
        return y if self.bias is None else y + self.bias


@cache
def eight_bits_overflow() -> bool:
    """Whether 8-bit activations overflow here: AVX2 adds pairs of products in 16 bits, VNNI in 32.

    Seven bits never overflow; they cost a small trained model 16 % of perplexity in place of 4 %.
    """
    largest = torch.ones(16, 64)  # every weight and every activation at the end of its range
    packed = _fbgemm_packed(largest, torch.full((16,), 1 / 127))
    rows = torch.cat((torch.ones(1, 64), -torch.ones(1, 64)))
    sums = torch.ops.quantized.linear_dynamic(rows, packed, False)
    return not torch.allclose(sums[0], torch.full((16,), 64.0), rtol=0.02)


def _fbgemm_packed(weight: torch.Tensor, scales: torch.Tensor) -> Any:
    """The weight in int8 in fbgemm's form. Which library packs is a setting of the process; it is put back."""
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            # torch announces the end of its quantised tensors; the version is pinned, and they are only passed through.
            warnings.filterwarnings("ignore", message=".*quantized tensor creation.*", category=UserWarning)
            steps = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(steps, None)
    finally:
        torch.backends.quantized.engine = before


def replace_linears(model: nn.Module, make: dict[tuple[int, int], type[PackedLinear]]) -> None:
    """Put a packed linear in the place of every `nn.Linear`, by its (out, in) shape; weights are freed one by one."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                weight, bias = child.weight, child.bias
                setattr(parent, name, make[tuple(weight.shape)](weight, bias))  # type: ignore[index]


def linears(model: nn.Module) -> dict[tuple[int, int], nn.Linear]:
    """One linear of each (out, in) shape."""
    found = (module for module in model.modules() if isinstance(module, nn.Linear))
    return {tuple(module.weight.shape): module for module in found}  # type: ignore[misc]
