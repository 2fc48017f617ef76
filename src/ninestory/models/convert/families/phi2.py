"""GPT-J (GPT4All-J), CodeGen and MOSS as llama.cpp's `phi2`, whose block is the same.

One norm a block feeds attention and feed-forward side by side; a part of each head is rotated; the head has a bias.
What differs is the order of the rotated rows (GPT-J pairs neighbours, phi2 halves) and biases that phi2 must have.
CodeGen's and MOSS's query, value and key stand in four shards, in that order, as they were trained.
"""

from __future__ import annotations

from typing import Any

from ninestory.core.errors import Unsupported
from ninestory.models.convert.checkpoint import Checkpoint
from ninestory.models.convert.gguf_tensor import GgufTensor, computed, renamed, take

_SHARDS = 4
_GELU = ("gelu_new", "gelu_pytorch_tanh")


def metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    bits = config.get("wbits", 32)
    if bits < 16 or config.get("activation_function", "gelu_new") not in _GELU or not config.get("rotary_dim"):
        raise Unsupported(
            f"This checkpoint has wbits {bits}, activation {config.get('activation_function')!r} and rotary_dim "
            f"{config.get('rotary_dim')!r}; expected unquantised weights, gelu_new and a rotary_dim.",
            hint="Use the half-precision release.",
            hint_zh="请使用半精度版本。",
            param="model",
        )
    return {
        "context_length": config["n_positions"],
        "embedding_length": config["n_embd"],
        "block_count": config["n_layer"],
        "feed_forward_length": int(config.get("n_inner") or 4 * config["n_embd"]),
        "attention.head_count": config["n_head"],
        "attention.head_count_kv": config["n_head"],
        "attention.layer_norm_epsilon": float(config.get("layer_norm_epsilon", 1e-5)),
        "rope.dimension_count": config["rotary_dim"],
        "vocab_size": config["vocab_size"],
    }


def tensors(checkpoint: Checkpoint) -> list[GgufTensor]:
    import numpy as np

    config = checkpoint.config
    width, heads = config["n_embd"], config["n_head"]
    rotated = _half_split(heads, width // heads, config["rotary_dim"])
    made = renamed(checkpoint, {"transformer.wte": "token_embd", "lm_head": "output"}, role="ends")
    made += renamed(checkpoint, {"transformer.ln_f": "output_norm"})
    for i in range(config["n_layer"]):
        block, name = f"transformer.h.{i}", f"blk.{i}"
        names = {"ln_1": "attn_norm", "attn.out_proj": "attn_output", "mlp.fc_in": "ffn_up", "mlp.fc_out": "ffn_down"}
        made += renamed(checkpoint, {f"{block}.{key}": f"{name}.{ours}" for key, ours in names.items()})
        for part, (key, rows) in _query_key_value(checkpoint, block, width, heads).items():
            order = rows[rotated] if part in "qk" else rows
            made.append(take(checkpoint, key, f"{name}.attn_{part}.weight", order))
        for part in ("q", "k", "v", "output"):
            made.append(computed(f"{name}.attn_{part}.bias", (width,), lambda: np.zeros(width, dtype=np.float32)))
    return made


def _query_key_value(checkpoint: Checkpoint, block: str, width: int, heads: int) -> dict[str, tuple[str, Any]]:
    """For q, k and v: (tensor, row indices)."""
    import numpy as np

    if f"{block}.attn.q_proj.weight" in checkpoint.tensors:
        return {part: (f"{block}.attn.{part}_proj.weight", np.arange(width)) for part in "qkv"}
    rows = np.arange(3 * width).reshape(_SHARDS, 3, heads // _SHARDS, width // heads)
    key = f"{block}.attn.qkv_proj.weight"
    return {part: (key, rows[:, place].reshape(-1)) for part, place in (("q", 0), ("k", 2), ("v", 1))}


def _half_split(heads: int, head: int, rotated: int) -> Any:
    """Rows of q or k with the rotated part of each head from pairs to halves. int64 [heads · head]."""
    import numpy as np

    one = np.arange(head)
    one = np.concatenate([one[:rotated:2], one[1:rotated:2], one[rotated:]])
    return (np.arange(heads)[:, None] * head + one).reshape(-1)
