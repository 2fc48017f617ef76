"""RWKV-6 and -7 from the original keys of BlinkDL's `.pth` files.

llama.cpp stacks the interpolation vectors of a block in one tensor and transposes the low-rank pairs. No rescaling of
deep layers is written: it guards float16 activations, and llama.cpp's are float32.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

from ninestory.core.errors import Unsupported
from ninestory.models.convert.checkpoint import Checkpoint
from ninestory.models.convert.gguf_tensor import GgufTensor, computed, renamed, take, whole

_CONTEXT = 1 << 20  # a state of constant size: what is written here limits nothing
_EPSILON = 1e-5
_VECTOR = 32  # llama.cpp's RWKV-7 loop steps by this many values and runs past a smaller head without a word
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_V6_MIX = {"receptance": "receptance", "key": "key", "value": "value", "gate": "gate", "output": "output", "ln_x": "ln"}
_V7_MIX = {name: ours for name, ours in _V6_MIX.items() if name != "gate"}


def version_of(checkpoint: Checkpoint) -> str:
    """ "4" to "7" by the keys, "" when it is no RWKV (rules: BlinkDL/ChatRWKV, rwkv_pip_package/src/rwkv/model.py)."""
    keys = checkpoint.tensors
    if "emb.weight" not in keys or "blocks.0.ln0.weight" not in keys:
        return ""
    if "blocks.0.att.r_k" in keys:
        return "7"
    if any("time_maa" in key for key in keys):
        return "6"
    return "5" if any("ln_x" in key for key in keys) else "4"


def metadata_v6(checkpoint: Checkpoint) -> dict[str, Any]:
    rank = checkpoint.tensor("blocks.0.att.time_maa_w2").shape[1]
    return {
        **_common(checkpoint, head=checkpoint.tensor("blocks.0.att.time_faaaa").shape[1]),
        "rescale_every_n_layers": 0,
        "time_mix_extra_dim": rank,
        "time_decay_extra_dim": checkpoint.tensor("blocks.0.att.time_decay_w1").shape[1],
    }


def metadata_v7(checkpoint: Checkpoint) -> dict[str, Any]:
    head = checkpoint.tensor("blocks.0.att.r_k").shape[1]
    if head % _VECTOR:
        raise Unsupported(
            f"The head size is {head}; expected a multiple of {_VECTOR}, which llama.cpp needs for RWKV-7.",
            hint="Load the original checkpoint with the torch runtime.",
            hint_zh="请直接加载原检查点（torch 运行时）。",
            param="model",
            code="no_gguf_family",
        )
    return {
        **_common(checkpoint, head=head),
        "attention.decay_lora_rank": checkpoint.tensor("blocks.0.att.w1").shape[1],
        "attention.iclr_lora_rank": checkpoint.tensor("blocks.0.att.a1").shape[1],
        "attention.value_residual_mix_lora_rank": checkpoint.tensor("blocks.1.att.v1").shape[1],
        "attention.gate_lora_rank": checkpoint.tensor("blocks.0.att.g1").shape[1],
    }


def tensors_v6(checkpoint: Checkpoint) -> list[GgufTensor]:
    made = _ends(checkpoint)
    for i in range(_layers(checkpoint)):
        att, ffn, name = f"blocks.{i}.att.", f"blocks.{i}.ffn.", f"blk.{i}."
        made += _block(checkpoint, i, _V6_MIX)
        made += [
            _stacked(checkpoint, [f"{att}time_maa_{part}" for part in "wkvrg"], f"{name}time_mix_lerp_fused.weight"),
            _transposed(checkpoint, f"{att}time_maa_w1", f"{name}time_mix_w1.weight"),
            _transposed(checkpoint, f"{att}time_maa_w2", f"{name}time_mix_w2.weight"),
            _flat(checkpoint, f"{att}time_maa_x", f"{name}time_mix_lerp_x.weight"),
            _flat(checkpoint, f"{att}time_decay", f"{name}time_mix_decay.weight"),
            _transposed(checkpoint, f"{att}time_decay_w1", f"{name}time_mix_decay_w1.weight"),
            _transposed(checkpoint, f"{att}time_decay_w2", f"{name}time_mix_decay_w2.weight"),
            take(checkpoint, f"{att}time_faaaa", f"{name}time_mix_first.weight", role="small"),
            _flat(checkpoint, f"{ffn}time_maa_k", f"{name}channel_mix_lerp_k.weight"),
            _flat(checkpoint, f"{ffn}time_maa_r", f"{name}channel_mix_lerp_r.weight"),
        ]
        made += renamed(checkpoint, {f"{ffn}receptance": f"{name}channel_mix_receptance"})
    return made


def tensors_v7(checkpoint: Checkpoint) -> list[GgufTensor]:
    made = _ends(checkpoint)
    for i in range(_layers(checkpoint)):
        att, name = f"blocks.{i}.att.", f"blk.{i}."
        made += _block(checkpoint, i, _V7_MIX)
        made.append(_stacked(checkpoint, [f"{att}x_{part}" for part in "rwkvag"], f"{name}time_mix_lerp_fused.weight"))
        for part in ("w0", "a0", "v0", "k_k", "k_a", "r_k"):
            made.append(_flat(checkpoint, _present(i, att, part), f"{name}time_mix_{part}.weight"))
        for part in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"):
            made.append(_transposed(checkpoint, _present(i, att, part), f"{name}time_mix_{part}.weight"))
        made.append(_flat(checkpoint, f"blocks.{i}.ffn.x_k", f"{name}channel_mix_lerp_k.weight"))
    return made


def _present(layer: int, att: str, part: str) -> str:
    """Fill the first block's unused v0, v1, v2 with a0, a1, a2: it mixes in no earlier value."""
    return att + (part.replace("v", "a") if layer == 0 and part in ("v0", "v1", "v2") else part)


def _common(checkpoint: Checkpoint, head: int) -> dict[str, Any]:
    return {
        "context_length": _CONTEXT,
        "embedding_length": checkpoint.tensor("emb.weight").shape[1],
        "block_count": _layers(checkpoint),
        "feed_forward_length": checkpoint.tensor("blocks.0.ffn.key.weight").shape[0],
        "attention.head_count": 0,
        "attention.layer_norm_epsilon": _EPSILON,
        "wkv.head_size": head,
        "vocab_size": checkpoint.tensor("emb.weight").shape[0],
    }


def _ends(checkpoint: Checkpoint) -> list[GgufTensor]:
    made = renamed(checkpoint, {"emb": "token_embd", "head": "output"}, role="ends")
    return made + renamed(checkpoint, {"blocks.0.ln0": "token_embd_norm", "ln_out": "output_norm"})


def _block(checkpoint: Checkpoint, i: int, mix: dict[str, str]) -> list[GgufTensor]:
    """Tensors common to both versions: norms, projections, and the feed-forward's two matrices."""
    names = {f"blocks.{i}.ln1": f"blk.{i}.attn_norm", f"blocks.{i}.ln2": f"blk.{i}.attn_norm_2"}
    names |= {f"blocks.{i}.att.{key}": f"blk.{i}.time_mix_{ours}" for key, ours in mix.items()}
    names |= {f"blocks.{i}.ffn.{part}": f"blk.{i}.channel_mix_{part}" for part in ("key", "value")}
    return renamed(checkpoint, names)


def _flat(checkpoint: Checkpoint, key: str, name: str) -> GgufTensor:
    return computed(name, (prod(checkpoint.tensor(key).shape),), lambda: whole(checkpoint, key).reshape(-1))


def _transposed(checkpoint: Checkpoint, key: str, name: str) -> GgufTensor:
    """Swap the last two axes."""
    *others, rows, columns = checkpoint.tensor(key).shape
    return computed(name, (*others, columns, rows), lambda: whole(checkpoint, key).swapaxes(-1, -2))


def _stacked(checkpoint: Checkpoint, keys: list[str], name: str) -> GgufTensor:
    """Stack a block's vectors to [vectors, 1, 1, width]."""
    import numpy as np

    width = checkpoint.tensor(keys[0]).shape[-1]
    return computed(
        name,
        (len(keys), 1, 1, width),
        lambda: np.stack([whole(checkpoint, key).reshape(1, 1, width) for key in keys]),
    )


def _layers(checkpoint: Checkpoint) -> int:
    return 1 + max(int(matched[1]) for key in checkpoint.tensors if (matched := _BLOCK.match(key)))
