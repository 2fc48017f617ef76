"""Where transformers' attention is replaced by `Step.attend`.

LLaMA-like families look their attention up in a registry and pass unknown keywords down to it, so their modules run as
they are, with the step as a keyword.
"""

from __future__ import annotations

from typing import Any

import torch

from ninestory.core.errors import Unsupported

NAME = "ninestory"


def _registered(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, **given: Any
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: q, k, v [1, heads, T, head_dim] → [1, T, heads · head_dim]."""
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    return given["step"].attend(module.layer_idx, q, k, v, scale=given.get("scaling"))[None], None


def install(model: Any, context: int) -> bool:
    """Make the model's attention ours. True = the step is passed as the keyword `step`, else in the cache's place.

    Raises:
        Unsupported: see `_check_plain`, or an attention that neither road reaches.
    """
    from transformers import AttentionInterface

    _check_plain(model.config, context)
    if not getattr(model, "_supports_attention_backend", False):
        raise Unsupported(
            f"The torch runtime has no batched attention for {model.config.model_type!r}.",
            hint="Convert the model to GGUF if llama.cpp runs this family.",
            hint_zh="若 llama.cpp 支持该系列，请转换为 GGUF。",
        )
    AttentionInterface.register(NAME, _registered)
    model.set_attn_implementation(NAME)
    return True


def kv_heads(config: Any) -> int:
    """Heads of the stored keys and values."""
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def bias(model: Any, context: int) -> torch.Tensor | None:
    """What is added to the scores of each key, [heads, context], or None."""
    return None


def _check_plain(config: Any, context: int) -> None:
    """Refuse what the step's attention and the plain head do not compute."""
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    odd = {
        "sliding-window attention": window is not None and window < context,
        "attention of several kinds": len(set(getattr(config, "layer_types", None) or ["full_attention"])) > 1,
        "capped scores": getattr(config, "attn_logit_softcapping", None) is not None,
        "capped logits": getattr(config, "final_logit_softcapping", None) is not None,
        "scaled logits": getattr(config, "logit_scale", None) not in (None, 1.0)
        or getattr(config, "logits_scaling", None) not in (None, 1.0),
    }
    if named := [what for what, present in odd.items() if present]:
        raise Unsupported(
            f"{config.model_type!r} has {', '.join(named)}, which the torch runtime does not compute.",
            hint="Use a GGUF of this model, or a shorter --context for sliding windows.",
            hint_zh="请改用该模型的 GGUF；滑动窗口模型也可用更小的 --context。",
        )
