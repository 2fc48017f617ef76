"""Weight-only quantised linears that keep their packed weights: one row scale, int8 or int4 (ChatGLM-6B's layout).

The packed weight is widened for one matrix product at a time and widened again in the backward pass, so a model
is never unpacked as a whole, and adapters or prefixes can be trained on top.

Layout (THUDM/chatglm-6b, quantization.py): symmetric, a float16 scale per output row; int4 byte j of a row holds
column 2j in its high nibble and column 2j+1 in its low one, both signed.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def quantize_rows(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise `weight` [out, in] symmetrically per row, in its own dtype (the published files: float16).

    Returns:
        packed: int8 [out, in] for 8 bits, [out, in / 2] for 4.
        scale: float16 [out].
    """
    if bits not in (4, 8):
        raise ValueError(f"bits is {bits}; expected 4 or 8")
    scale = (weight.abs().amax(dim=1) / (2 ** (bits - 1) - 1)).half()  # [out]
    steps = torch.round(weight / scale[:, None]).nan_to_num(0.0)  # a row of zeros has scale 0
    steps = steps.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)
    if bits == 8:
        return steps, scale
    return (steps[:, 0::2] << 4) | (steps[:, 1::2] & 15), scale


def dequantize_rows(packed: torch.Tensor, scale: torch.Tensor, bits: int, dtype: torch.dtype) -> torch.Tensor:
    """Inverse of `quantize_rows`: [out, in] in `dtype`. Products are taken in `dtype`, as the original does."""
    if bits == 4:
        high, low = packed >> 4, (packed << 4) >> 4  # arithmetic shifts keep the sign
        packed = torch.stack((high, low), dim=-1).flatten(1)  # [out, in]
    return packed.to(dtype) * scale.to(dtype)[:, None]


class _RowQuantizedMatmul(torch.autograd.Function):
    """y = x · Wᵀ with W widened on the fly; only the packed W is kept for the backward pass."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
        ctx.save_for_backward(packed, scale)
        ctx.bits = bits
        return F.linear(x, dequantize_rows(packed, scale, bits, x.dtype))

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        packed, scale = ctx.saved_tensors
        return grad @ dequantize_rows(packed, scale, ctx.bits, grad.dtype), None, None, None


class RowQuantizedLinear(nn.Module):
    """A frozen linear of int8 or int4 weights. Keys: `weight` (int8), `weight_scale` (float16), `bias`."""

    def __init__(self, in_features: int, out_features: int, bits: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        columns = in_features if bits == 8 else in_features // 2
        self.weight = nn.Parameter(torch.empty(out_features, columns, dtype=torch.int8), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(out_features, dtype=torch.float16), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    @classmethod
    def from_linear(cls, linear: nn.Linear, bits: int) -> RowQuantizedLinear:
        """Quantise an existing linear; its bias is kept."""
        module = cls(linear.in_features, linear.out_features, bits, bias=False)
        packed, scale = quantize_rows(linear.weight.detach(), bits)
        module.weight = nn.Parameter(packed, requires_grad=False)
        module.weight_scale = nn.Parameter(scale, requires_grad=False)
        if linear.bias is not None:
            module.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        return module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = _RowQuantizedMatmul.apply(x, self.weight, self.weight_scale, self.bits)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"
