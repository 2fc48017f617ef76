"""ChatRWKV's 8-bit matrices: a minimum and a scale per row and per column, one byte per entry."""

from __future__ import annotations

import torch
from torch import nn


def quantize(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Quantise a linear's weight [out, in] in the original's format, computed in float32.

    Returns:
        weight uint8 [in, out]; mx, rx float32 [out]; my, ry float32 [in, 1], with
        w = (weight + 0.5) · ry · rx + my + mx.
    """
    w = weight.float().T.clone()  # [in, out]
    if w.shape[0] > w.shape[1]:
        my = w.amin(1, keepdim=True)
        w -= my
        mx = w.amin(0)
        w -= mx
    else:
        mx = w.amin(0)
        w -= mx
        my = w.amin(1, keepdim=True)
        w -= my
    rx = w.amax(0)
    w /= rx
    ry = w.amax(1, keepdim=True)
    w /= ry
    levels = torch.clip(torch.floor(w * 256), 0, 255).to(torch.uint8)
    return {"weight": levels.contiguous(), "mx": mx, "my": my, "rx": rx / 16, "ry": ry / 16}


class RwkvInt8Linear(nn.Module):
    """x [..., in] → [..., out] with the matrix of `quantize`; the vectors are kept in the activations' dtype."""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.empty(in_features, out_features, dtype=torch.uint8))
        for name in ("mx", "rx"):
            self.register_buffer(name, torch.empty(out_features, dtype=dtype))
        for name in ("my", "ry"):
            self.register_buffer(name, torch.empty(in_features, 1, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = (self.weight.to(x.dtype) + 0.5) * self.ry * self.rx + self.my + self.mx
        return nn.functional.linear(x, w.T)
