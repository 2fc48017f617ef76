"""BLOOM (BLOOMZ, BELLE): ALiBi positions, a layer norm after the embedding, query, key and value grouped per head."""

from __future__ import annotations

from typing import Any

from ninestory.core.errors import Unsupported
from ninestory.models.convert.checkpoint import Checkpoint
from ninestory.models.convert.gguf_tensor import GgufTensor, renamed

_CONTEXT = 2048  # what the released models were trained with; alibi has no limit of its own
_BLOCK = {
    "input_layernorm": "attn_norm", "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}  # fmt: skip


def metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    if config.get("apply_residual_connection_post_layernorm"):
        raise Unsupported(
            "This BLOOM takes its residual after the layer norm, which llama.cpp does not support.", param="model"
        )
    width, heads = _width(config), _heads(config)
    return {
        "context_length": int(config.get("seq_length") or _CONTEXT),
        "embedding_length": width,
        "block_count": _layers(config),
        "feed_forward_length": 4 * width,
        "attention.head_count": heads,
        "attention.head_count_kv": heads,
        "attention.layer_norm_epsilon": float(config.get("layer_norm_epsilon", 1e-5)),
        "vocab_size": config["vocab_size"],
    }


def tensors(checkpoint: Checkpoint) -> list[GgufTensor]:
    import numpy as np

    config = checkpoint.config
    prefix = "transformer." if "transformer.word_embeddings.weight" in checkpoint.tensors else ""
    made = renamed(checkpoint, {f"{prefix}word_embeddings": "token_embd"}, role="ends")
    ends = {f"{prefix}word_embeddings_layernorm": "token_embd_norm", f"{prefix}ln_f": "output_norm"}
    made += renamed(checkpoint, ends)
    width, heads = _width(config), _heads(config)
    blocks = np.arange(3 * width).reshape(heads, 3, width // heads).swapaxes(0, 1).reshape(-1)
    for i in range(_layers(config)):
        names = {f"{prefix}h.{i}.{key}": f"blk.{i}.{name}" for key, name in _BLOCK.items()}
        made += renamed(checkpoint, names, {f"blk.{i}.attn_qkv": blocks})
    return made  # the head is tied to the embedding


def _width(config: dict[str, Any]) -> int:
    return int(config.get("hidden_size") or config["n_embed"])


def _heads(config: dict[str, Any]) -> int:
    return int(config.get("n_head") or config["num_attention_heads"])


def _layers(config: dict[str, Any]) -> int:
    return int(config.get("n_layer") or config["num_hidden_layers"])
