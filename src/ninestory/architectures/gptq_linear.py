"""GPTQ-packed linears in plain torch: 4 or 8 bits, groups along the inputs, the layout of GPTQ-for-LLaMa (AutoGPTQ v1).

    qweight int32 [in · bits / 32, out]   word r holds inputs r·(32/bits) …, low bits first
    qzeros  int32 [groups, out · bits / 32]   outputs packed the same way; the stored zero is zero − 1
    scales  float16 [groups, out]
    g_idx   int32 [in]   the group of each input

MOSS's int4 and int8 releases use it for every linear but the head. The packed weight is widened for one product at a
time, in the backward pass too, so adapters can be trained on top.
"""

from __future__ import annotations

import torch
from torch import nn

from .gptq_calibration import Quantized


def unpack_inputs(qweight: torch.Tensor, bits: int) -> torch.Tensor:
    """[in · bits / 32, out] words → int32 [in, out] values."""
    shifts = torch.arange(0, 32, bits, device=qweight.device, dtype=torch.int32)[None, :, None]  # [1, per word, 1]
    return ((qweight[:, None, :] >> shifts) & (2**bits - 1)).flatten(0, 1)


def unpack_zeros(qzeros: torch.Tensor, bits: int) -> torch.Tensor:
    """[groups, out · bits / 32] words → int32 [groups, out] zero points.

    The stored value is zero − 1 modulo 2^bits, so a zero point of 0 is stored as all ones and comes back here.
    """
    shifts = torch.arange(0, 32, bits, device=qzeros.device, dtype=torch.int32)[None, None, :]
    stored = ((qzeros[:, :, None] >> shifts) & (2**bits - 1)).flatten(1)
    return (stored + 1) & (2**bits - 1)


def dequantize(
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    g_idx: torch.Tensor,
    bits: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The weight as [in, out] in `dtype`."""
    group = g_idx.long()
    steps = unpack_inputs(qweight, bits) - unpack_zeros(qzeros, bits)[group]
    return steps.to(dtype) * scales.to(dtype)[group]


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """int [n, m] of 0 … 2^bits − 1 → int32 words [n · bits / 32, m], low bits first (the inverse of `unpack_inputs`)."""
    shifts = torch.arange(0, 32, bits, device=values.device)[None, :, None]
    words = (values.long().unflatten(0, (-1, 32 // bits)) << shifts).sum(dim=1)  # no carries: the fields are apart
    return (words - ((words >> 31) << 32)).to(torch.int32)


class _GptqMatmul(torch.autograd.Function):
    """y = x · W with W widened on the fly; only the packed tensors are kept for the backward pass."""

    @staticmethod
    def forward(ctx, x, qweight, qzeros, scales, g_idx, bits):
        ctx.save_for_backward(qweight, qzeros, scales, g_idx)
        ctx.bits = bits
        return x @ dequantize(qweight, qzeros, scales, g_idx, bits, x.dtype)

    @staticmethod
    def backward(ctx, grad):
        qweight, qzeros, scales, g_idx = ctx.saved_tensors
        weight = dequantize(qweight, qzeros, scales, g_idx, ctx.bits, grad.dtype)
        return grad @ weight.T, None, None, None, None, None


class GPTQLinear(nn.Module):
    """A frozen linear over GPTQ-packed weights.

    Args:
        group_size: inputs of one scale; -1 for the whole row.
    """

    def __init__(self, in_features: int, out_features: int, bits: int, group_size: int, bias: bool) -> None:
        super().__init__()
        if bits not in (4, 8) or in_features % (32 // bits) or out_features % (32 // bits):
            raise ValueError(
                f"{in_features} × {out_features} at {bits} bits; expected 4 or 8 bits and sizes divisible by 32 / bits"
            )
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        size = in_features if group_size == -1 else group_size
        groups = -(-in_features // size)

        def packed(*shape: int, dtype: torch.dtype = torch.int32) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=dtype), requires_grad=False)

        self.qweight = packed(in_features * bits // 32, out_features)
        self.qzeros = packed(groups, out_features * bits // 32)
        self.scales = packed(groups, out_features, dtype=torch.float16)
        self.g_idx = nn.Parameter((torch.arange(in_features) // size).int(), requires_grad=False)
        self.bias = packed(out_features, dtype=torch.float16) if bias else None

    @classmethod
    def from_quantized(cls, quantized: Quantized, bits: int, bias: torch.Tensor | None = None) -> GPTQLinear:
        """Pack a calibrated weight. A zero point of 0 is stored modulo 2^bits and never spills into its neighbours."""
        outputs, inputs = quantized.weight.shape
        groups = quantized.scale.shape[1]
        module = cls(inputs, outputs, bits, -1 if groups == 1 else -(-inputs // groups), bias is not None)
        group = quantized.g_idx.long()
        codes = torch.round(quantized.weight / quantized.scale[:, group] + quantized.zero[:, group])  # [out, in]
        stored_zero = (quantized.zero.long() - 1) & (2**bits - 1)  # [out, groups]
        parts = {
            "qweight": pack(codes.T, bits),
            "qzeros": pack(stored_zero, bits).T.contiguous(),
            "scales": quantized.scale.T.half().contiguous(),
            "g_idx": quantized.g_idx,
        }
        module.load_state_dict(parts | ({} if bias is None else {"bias": bias.half()}))
        return module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = _GptqMatmul.apply(x, self.qweight, self.qzeros, self.scales, self.g_idx, self.bits)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


def dequantize_llmtune(
    qweight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The weight [in, out] of LLMTune's layout in `dtype`: scale · nibble − zeros, one pair a row."""
    return unpack_inputs(qweight, 4).to(dtype) * scales.to(dtype).T - zeros.to(dtype).T


class _LLMTuneProduct(torch.autograd.Function):
    """As `_GptqMatmul`, for LLMTune's layout."""

    @staticmethod
    def forward(ctx, x, qweight, scales, zeros):
        ctx.save_for_backward(qweight, scales, zeros)
        return x @ dequantize_llmtune(qweight, scales, zeros, x.dtype)

    @staticmethod
    def backward(ctx, grad):
        qweight, scales, zeros = ctx.saved_tensors
        return grad @ dequantize_llmtune(qweight, scales, zeros, grad.dtype).T, None, None, None


class LLMTuneLinear(nn.Module):
    """A frozen 4-bit linear in LLMTune's older layout: whole rows, no groups, `zeros` = zero · scale as a float.

    qweight int32 [in / 8, out], scales and zeros float32 [out, 1], bias float32 [out].
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        if in_features % 256:
            raise ValueError(f"in_features is {in_features}; expected a multiple of 256 (LLMTune's packing)")
        self.in_features, self.out_features, self.bits = in_features, out_features, 4
        words = torch.zeros(in_features // 8, out_features, dtype=torch.int32)
        self.qweight = nn.Parameter(words, requires_grad=False)
        self.scales = nn.Parameter(torch.zeros(out_features, 1), requires_grad=False)
        self.zeros = nn.Parameter(torch.zeros(out_features, 1), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False)

    @classmethod
    def from_quantized(cls, quantized: Quantized, bias: torch.Tensor | None = None) -> LLMTuneLinear:
        """Pack a weight that was calibrated in 4 bits over whole rows."""
        outputs, inputs = quantized.weight.shape
        module = cls(inputs, outputs)
        codes = torch.round(quantized.weight / quantized.scale + quantized.zero)  # [out, in]
        parts = {"qweight": pack(codes.T, 4), "scales": quantized.scale, "zeros": quantized.zero * quantized.scale}
        module.load_state_dict(parts | {"bias": torch.zeros(outputs) if bias is None else bias})
        return module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _LLMTuneProduct.apply(x, self.qweight, self.scales, self.zeros) + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"
