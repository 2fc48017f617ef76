"""Falcon in its two forms: 7B (one key head, one norm a block) and 40B (grouped key heads, two norms a block)."""

from __future__ import annotations

from typing import Any

from ninestory.core.errors import Unsupported
from ninestory.models.convert.checkpoint import Checkpoint
from ninestory.models.convert.gguf_tensor import GgufTensor, renamed

_CONTEXT = 2048  # of the released models, whose config.json does not say it
_BLOCK = {
    "self_attention.query_key_value": "attn_qkv", "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
}  # fmt: skip
# The block's norm in front of the feed-forward comes under the name of the attention's, and the other as a second.
_NORMS = {"input_layernorm": "attn_norm", "ln_mlp": "attn_norm", "ln_attn": "attn_norm_2"}


def metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    odd = [name for name in ("alibi", "bias") if config.get(name)]
    odd += ["serial blocks"] if not config.get("parallel_attn", True) else []
    if odd:
        raise Unsupported(
            f"llama.cpp cannot run this Falcon (falcon-rw): it has {', '.join(odd)}.",
            hint="Load the original checkpoint with the torch runtime.",
            hint_zh="请直接加载原检查点（torch 运行时）。",
            param="model",
            code="no_gguf_family",
        )
    return {
        "context_length": int(config.get("max_position_embeddings") or _CONTEXT),
        "embedding_length": config["hidden_size"],
        "block_count": _layers(config),
        "feed_forward_length": int(config.get("ffn_hidden_size") or 4 * config["hidden_size"]),
        "attention.head_count": _heads(config),
        "attention.head_count_kv": _kv_heads(config),
        "attention.layer_norm_epsilon": float(config.get("layer_norm_epsilon", 1e-5)),
        "rope.freq_base": float((config.get("rope_parameters") or config).get("rope_theta") or 10_000.0),
        "vocab_size": config["vocab_size"],
    }


def tensors(checkpoint: Checkpoint) -> list[GgufTensor]:
    import numpy as np

    config = checkpoint.config
    heads, kv_heads = _heads(config), _kv_heads(config)
    head = config["hidden_size"] // heads
    made = renamed(checkpoint, {"transformer.word_embeddings": "token_embd"}, role="ends")
    made += renamed(checkpoint, {"transformer.ln_f": "output_norm"})
    if not config.get("tie_word_embeddings", True):
        made += renamed(checkpoint, {"lm_head": "output"}, role="ends")
    groups = np.arange((heads + 2 * kv_heads) * head).reshape(kv_heads, heads // kv_heads + 2, head)
    order = np.concatenate([groups[:, :-2].reshape(-1), groups[:, -2].reshape(-1), groups[:, -1].reshape(-1)])
    for i in range(_layers(config)):
        block = f"transformer.h.{i}"
        names = {f"{block}.{key}": f"blk.{i}.{name}" for key, name in _BLOCK.items()}
        names |= {
            f"{block}.{key}": f"blk.{i}.{name}"
            for key, name in _NORMS.items()
            if f"{block}.{key}.weight" in checkpoint.tensors
        }
        made += renamed(checkpoint, names, {f"blk.{i}.attn_qkv": order})
    return made


def _heads(config: dict[str, Any]) -> int:
    return int(config.get("num_attention_heads") or config["n_head"])


def _layers(config: dict[str, Any]) -> int:
    return int(config.get("num_hidden_layers") or config["n_layer"])


def _kv_heads(config: dict[str, Any]) -> int:
    if config.get("new_decoder_architecture") or config.get("n_head_kv"):
        return int(config.get("num_kv_heads") or config["n_head_kv"])
    return 1 if config.get("multi_query", True) else _heads(config)
