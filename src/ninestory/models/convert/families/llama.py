"""LLaMA-style models (Alpaca, Vicuna, Chinese-Alpaca, OpenBuddy, Mistral, Qwen 2 and 3) for llama.cpp.

LLaMA's rotary embedding pairs neighbouring rows in llama.cpp and the two halves of a head in Hugging Face's files, so
the rows of q and k are interleaved; Qwen keeps the halves in both.
"""

from __future__ import annotations

import math
from typing import Any

from ninestory.core.errors import Unsupported
from ninestory.models.convert.checkpoint import Checkpoint
from ninestory.models.convert.gguf_tensor import GgufTensor, computed, renamed

_BLOCK = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_ONLY_QWEN3 = ("self_attn.q_norm", "self_attn.k_norm")


def metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    if config.get("sliding_window") and config.get("use_sliding_window", config["model_type"] == "mistral"):
        raise Unsupported(
            f"This checkpoint uses sliding-window attention over {config['sliding_window']} tokens, which is not supported.",
            hint="Load the original checkpoint with the torch runtime.",
            hint_zh="请直接加载原检查点（torch 运行时）。",
            param="model",
        )
    heads, head = config["num_attention_heads"], _head(config)
    kind, factor = _scaling(config)
    return {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": _kv_heads(config),
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "rope.freq_base": _theta(config),
        "vocab_size": config["vocab_size"],
        **({"rope.scaling.type": "linear", "rope.scaling.factor": factor} if kind == "linear" else {}),
    }


def tensors(checkpoint: Checkpoint) -> list[GgufTensor]:
    config = checkpoint.config
    made = renamed(checkpoint, {"model.embed_tokens": "token_embd"}, role="ends")
    made += renamed(checkpoint, {"model.norm": "output_norm"})
    if not config.get("tie_word_embeddings", False) and "lm_head.weight" in checkpoint.tensors:
        made += renamed(checkpoint, {"lm_head": "output"}, role="ends")
    if _scaling(config)[0] == "llama3":
        made.append(computed("rope_freqs.weight", (_head(config) // 2,), lambda: _llama3_factors(config)))
    interleaves = config["model_type"] in ("llama", "mistral")
    for i in range(config["num_hidden_layers"]):
        normed = config["model_type"] == "qwen3"
        names = {
            f"model.layers.{i}.{key}": f"blk.{i}.{name}"
            for key, name in _BLOCK.items()
            if normed or key not in _ONLY_QWEN3
        }
        orders = {}
        if interleaves:
            orders = {
                f"blk.{i}.attn_q": interleaved(config["num_attention_heads"], _head(config)),
                f"blk.{i}.attn_k": interleaved(_kv_heads(config), _head(config)),
            }
        made += renamed(checkpoint, names, orders)
    return made


def interleaved(heads: int, head: int) -> Any:
    """The rows of q or k in llama.cpp's order: the two halves of each head in turn. int64 [heads · head]."""
    import numpy as np

    return np.arange(heads * head).reshape(heads, 2, head // 2).swapaxes(1, 2).reshape(-1)


def _head(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _kv_heads(config: dict[str, Any]) -> int:
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of the rotary embedding: transformers 5 writes `rope_parameters`, older versions `rope_scaling`."""
    return dict(config.get("rope_parameters") or config.get("rope_scaling") or {})


def _theta(config: dict[str, Any]) -> float:
    return float(_rope(config).get("rope_theta") or config.get("rope_theta") or 10_000.0)


def _scaling(config: dict[str, Any]) -> tuple[str, float]:
    rope = _rope(config)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "linear", "llama3"):
        raise Unsupported(
            f"The rope_scaling of this checkpoint is {kind!r}; expected linear or llama3.",
            hint="Load the original checkpoint with the torch runtime.",
            hint_zh="请直接加载原检查点（torch 运行时）。",
            param="model",
        )
    return str(kind), float(rope.get("factor", 1.0))


def _llama3_factors(config: dict[str, Any]) -> Any:
    """Divisors of the rotary frequencies, float32 [head / 2] (Llama 3.1's rule: meta-llama, model.py)."""
    import numpy as np

    rope, head = _rope(config), _head(config)
    low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for j in range(0, head, 2):
        wavelength = 2 * math.pi * _theta(config) ** (j / head)
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(rope["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)
