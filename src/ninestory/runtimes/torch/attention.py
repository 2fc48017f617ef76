"""Where transformers' attention is replaced by `Step.attend`.

GPT-J, CodeGen (MOSS), BLOOM and Falcon pass nothing but the cache down to their attention: its `forward` is replaced,
and the step stands in the cache's place. LLaMA has a forward of its own (llama.py), ChatGLM and RWKV are our modules.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch

from ninestory.core.errors import Unsupported

NAME = "ninestory"


def _kind(config: Any) -> str:
    """The family by the class that runs it: old files call Falcon by other names."""
    return str(type(config).model_type)


def install(model: Any) -> None:
    """Make the model's attention ours.

    Raises:
        Unsupported: a family whose attention is not among those below.
    """
    forward = _WRITTEN_OUT.get(_kind(model.config))
    if forward is None:
        raise Unsupported(
            f"The torch runtime has no batched attention for {model.config.model_type!r}.",
            hint="Convert the model to GGUF if llama.cpp runs this family.",
            hint_zh="若 llama.cpp 支持该系列，请转换为 GGUF。",
        )
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.forward = MethodType(forward, module)
    model.config._attn_implementation_internal = NAME  # no masks are made for a name that has none


def kv_heads(config: Any) -> int:
    """Heads of the stored keys and values."""
    if _kind(config) == "falcon":
        if config.new_decoder_architecture:
            return int(config.num_kv_heads)
        return 1 if config.multi_query else int(config.num_attention_heads)
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def bias(model: Any, context: int) -> torch.Tensor | None:
    """What is added to the scores of each key, [heads, context], or None: alibi, whose slopes fall with the head."""
    config = model.config
    places = torch.arange(context, device=model.device)
    if _kind(config) == "bloom":
        return (_alibi_slopes(config.num_attention_heads, model.device)[:, None] * places).to(model.dtype)
    if _kind(config) == "falcon" and config.alibi:
        # The original rounds both factors to bfloat16, and scales the bias together with the scores.
        slopes = _alibi_slopes(config.num_attention_heads, model.device).bfloat16()
        head_dim = config.hidden_size // config.num_attention_heads
        return (slopes[:, None] * places).to(model.dtype) / head_dim**0.5
    return None


def _alibi_slopes(heads: int, device: torch.device) -> torch.Tensor:
    """Slope of each head, float32 [heads]: powers of 2^(-8/n), n the power of two below, then every second between.

    Source: Press et al. 2022, "Train Short, Test Long", and its appendix for other numbers of heads.
    """
    whole = 1 << (heads.bit_length() - 1)
    powers = torch.arange(1, whole + 1, device=device, dtype=torch.float32)
    slopes = 2.0 ** (-8.0 / whole * powers)
    between = torch.arange(1, 2 * (heads - whole) + 1, 2, device=device, dtype=torch.float32)
    return torch.cat((slopes, 2.0 ** (-4.0 / whole * between)))


# --- the attentions; `self` is the module, tokens are [1, T, hidden] ---------------


def _rotate_pairs(x: torch.Tensor, sincos: torch.Tensor) -> torch.Tensor:
    """GPT-J's rotation of neighbouring numbers, of the first dimensions of each head.

    Args:
        x: [T, heads, head_dim].
        sincos: [T, rotated]: sines, then cosines, one for each pair.
    """
    rotated = sincos.shape[-1]
    sin, cos = (t.repeat_interleave(2, dim=-1)[:, None] for t in sincos.chunk(2, dim=-1))  # [T, 1, rotated]
    head = x[..., :rotated]
    turned = torch.stack((-head[..., 1::2], head[..., ::2]), dim=-1).flatten(-2)
    return torch.cat((head * cos + turned * sin, x[..., rotated:]), dim=-1)


def _gptj(self: Any, hidden_states: Any, layer_past: Any = None, position_ids: Any = None, **_: Any) -> Any:
    q, k, v = (
        linear(hidden_states)[0].unflatten(-1, (self.num_attention_heads, -1))
        for linear in (self.q_proj, self.k_proj, self.v_proj)
    )
    sincos = self.embed_positions[position_ids[0]].to(k.dtype)
    q, k = _rotate_pairs(q, sincos), _rotate_pairs(k, sincos)
    return self.out_proj(layer_past.attend(self.layer_idx, q, k, v)[None]), None


def _codegen(self: Any, hidden_states: Any, layer_past: Any = None, position_ids: Any = None, **_: Any) -> Any:
    # Four groups of (query, value, key), as the model was split over four chips when it was trained.
    groups = self.qkv_proj(hidden_states)[0].unflatten(-1, (4, 3, -1))  # [T, 4, 3, hidden / 4]
    q, v, k = (groups[:, :, i].reshape(groups.shape[0], self.num_attention_heads, self.head_dim) for i in range(3))
    sincos = self.embed_positions[position_ids[0]].to(k.dtype)
    q, k = _rotate_pairs(q, sincos), _rotate_pairs(k, sincos)
    return self.out_proj(layer_past.attend(self.layer_idx, q, k, v)[None]), None


def _bloom(self: Any, hidden_states: Any, residual: Any, layer_past: Any = None, **_: Any) -> Any:
    q, k, v = self.query_key_value(hidden_states)[0].unflatten(-1, (self.num_heads, 3, -1)).unbind(2)
    return residual + self.dense(layer_past.attend(self.layer_idx, q, k, v)[None]), None


def _falcon(
    self: Any,
    hidden_states: Any,
    alibi: Any = None,
    layer_past: Any = None,
    position_embeddings: Any = None,
    **_: Any,
) -> Any:
    from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

    fused = self.query_key_value(hidden_states)[0]
    if self.new_decoder_architecture:  # per group: its queries, then one key and one value
        groups = fused.unflatten(-1, (self.num_kv_heads, -1, self.head_dim))
        q, k, v = groups[:, :, :-2].flatten(1, 2), groups[:, :, -2], groups[:, :, -1]
    elif self.multi_query:
        heads = fused.unflatten(-1, (self.num_heads + 2, self.head_dim))
        q, k, v = heads[:, :-2], heads[:, -2:-1], heads[:, -1:]
    else:
        q, k, v = fused.unflatten(-1, (self.num_heads, 3, self.head_dim)).unbind(2)
    if alibi is None:
        cos, sin = (t[0] for t in position_embeddings)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)  # its unsqueeze_dim 1 is the heads' dimension here as well
    return self.dense(layer_past.attend(self.layer_idx, q, k, v)[None]), None


_WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "gptj": _gptj,
    "codegen": _codegen,
    "moss": _codegen,
    "bloom": _bloom,
    "falcon": _falcon,
}
