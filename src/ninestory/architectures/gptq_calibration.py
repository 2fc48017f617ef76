"""GPTQ: 4- or 8-bit quantisation of one linear that minimises the change of its outputs on calibration inputs.

Source: "GPTQ: Accurate Post-Training Quantization" (Frantar et al. 2022), with the order of operations of
GPTQ-for-LLaMa, so that the same inputs give the same packed integers. `gptq_linear` holds the layout and the linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

COLUMN_BLOCK = 128  # columns quantised before the error is carried to those after them


class Hessian:
    """2 · mean(XᵀX) over the calibration inputs of one linear, [in, in] float32. Sequences are counted, not tokens."""

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self.matrix = torch.zeros(in_features, in_features, device=device)
        self.sequences = 0

    def add(self, x: torch.Tensor) -> None:
        """Accumulate `x` [sequences, tokens, in], or [tokens, in] as one sequence."""
        count = x.shape[0] if x.dim() == 3 else 1
        x = x.flatten(0, -2).float()  # [rows, in]
        self.matrix *= self.sequences / (self.sequences + count)
        self.sequences += count
        x = x * (2 / self.sequences) ** 0.5
        self.matrix.addmm_(x.T, x)


@dataclass(frozen=True)
class Grid:
    """Steps of one group of every row: value = scale · (code − zero). Both [out], float32."""

    scale: torch.Tensor
    zero: torch.Tensor
    top: int  # 2^bits − 1

    @classmethod
    def of(cls, weight: torch.Tensor, bits: int, symmetric: bool = False) -> Grid:
        """The grid that spans each row of `weight` [out, group] and 0."""
        top = 2**bits - 1
        low, high = weight.amin(dim=1).clamp(max=0), weight.amax(dim=1).clamp(min=0)
        if symmetric:
            high = torch.maximum(low.abs(), high)
            low = torch.where(low < 0, -high, low)
        empty = (low == 0) & (high == 0)
        low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
        scale = (high - low) / top
        zero = torch.full_like(scale, (top + 1) / 2) if symmetric else torch.round(-low / scale)
        return cls(scale, zero, top)

    def snap(self, weight: torch.Tensor) -> torch.Tensor:
        """Round `weight` [out, n] to the nearest step (halves to even)."""
        scale, zero = self.scale[:, None], self.zero[:, None]
        return scale * (torch.clamp(torch.round(weight / scale) + zero, 0, self.top) - zero)


@dataclass(frozen=True)
class Quantized:
    """Result of a calibration.

    weight: [out, in] float32, every entry on its grid. scale, zero: [out, groups]. g_idx: int32 [in].
    error: the sum that GPTQ minimises; None without calibration.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    g_idx: torch.Tensor
    error: float | None


def round_to_nearest(weight: torch.Tensor, bits: int, group_size: int = -1, symmetric: bool = False) -> Quantized:
    """Quantise `weight` [out, in] without calibration."""
    weight = weight.detach().float()
    size = weight.shape[1] if group_size == -1 else group_size
    groups = weight.split(size, dim=1)
    grids = [Grid.of(group, bits, symmetric) for group in groups]
    snapped = torch.cat([grid.snap(group) for grid, group in zip(grids, groups, strict=True)], dim=1)
    return _result(snapped, grids, torch.arange(weight.shape[1]) // size, None)


def calibrate(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    bits: int,
    group_size: int = -1,
    *,
    symmetric: bool = False,
    activation_order: bool = False,
    damping: float = 0.01,
) -> Quantized:
    """Quantise `weight` [out, in] column by column, carrying each column's error to the columns after it.

    Args:
        hessian: [in, in] from `Hessian`.
        group_size: inputs that share a scale; -1 for the whole row.
        activation_order: columns of large activations first (their groups are then no runs of inputs).
        damping: share of the mean diagonal added to it.

    Raises:
        torch.linalg.LinAlgError: the Hessian is not positive definite: too few inputs for this damping.
    """
    weight, hessian = weight.detach().float().clone(), hessian.float().clone()
    columns = weight.shape[1]
    whole = Grid.of(weight, bits, symmetric) if group_size == -1 else None
    diagonal = hessian.diagonal()
    dead = diagonal == 0  # inputs that were never other than 0: their weights do nothing
    diagonal[dead] = 1
    weight[:, dead] = 0
    order = diagonal.argsort(descending=True) if activation_order else torch.arange(columns, device=weight.device)
    weight, hessian = weight[:, order], hessian[order][:, order]
    inverse = _inverse_factor(hessian, damping)

    snapped, grids, error = torch.empty_like(weight), [] if whole is None else [whole], 0.0
    for start in range(0, columns, COLUMN_BLOCK):
        stop = min(start + COLUMN_BLOCK, columns)
        block, factor = weight[:, start:stop].clone(), inverse[start:stop, start:stop]
        errors = torch.empty_like(block)
        for i in range(stop - start):
            if whole is None and (start + i) % group_size == 0:
                # From the weights as they were before this block's own corrections: what the original does, and
                # needed for the same integers.
                grids.append(Grid.of(weight[:, start + i : start + i + group_size], bits, symmetric))
            column = grids[-1].snap(block[:, i : i + 1])
            snapped[:, start + i] = column[:, 0]
            errors[:, i] = (block[:, i] - column[:, 0]) / factor[i, i]
            block[:, i:] -= errors[:, i : i + 1] * factor[i, i:]
        error += errors.square().sum().item() / 2
        weight[:, stop:] -= errors @ inverse[start:stop, stop:]

    back = order.argsort()
    size = columns if group_size == -1 else group_size
    return _result(snapped[:, back], grids, (torch.arange(columns, device=weight.device) // size)[back], error)


def _inverse_factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Upper Cholesky factor of the inverse of the damped Hessian."""
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)


def _result(weight: torch.Tensor, grids: list[Grid], g_idx: torch.Tensor, error: float | None) -> Quantized:
    scale, zero = torch.stack([g.scale for g in grids], dim=1), torch.stack([g.zero for g in grids], dim=1)
    return Quantized(weight, scale, zero, g_idx.int(), error)
