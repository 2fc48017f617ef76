"""Conversion of a GGUF to a float32 checkpoint directory, so that a GGUF model (the starter) can be tuned.

Row blocks are widened one after another (54 MB at the peak for any size); every tensor is bit-identical to what
llama.cpp's own formulas give. llama.cpp's order of the rows of q and k is undone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.core.paths import Home, atomic_write
from ninestory.core.progress import Progress
from ninestory.models.convert.safetensors_writer import NewTensor, output_folder, write_json, write_shards
from ninestory.models.gguf_reader import GgufFile, read_gguf
from ninestory.models.tensor_info import TensorInfo
from ninestory.tokenizers.gguf_vocabulary import tokenizer_files

_ROWS = 4096  # of one block
_ENDS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def float_checkpoint(source: Path, sha256: str, home: Home, progress: Progress) -> Path:
    """Convert the GGUF `source` to a float32 directory, cached in the home by the source's checksum."""
    target = home.cache / "float32" / sha256[:16]
    if not target.is_dir():
        write_checkpoint(source, target, progress)
    return target


def write_checkpoint(source: Path, target: Path, progress: Progress) -> None:
    """Write config.json, the weights and the tokenizer's files of the GGUF `source` into the new folder `target`.

    Raises:
        InvalidRequest: another architecture than LLaMA's, or a tensor or vocabulary with no place there.
        Damaged: the GGUF is.
    """
    header = read_gguf(source)
    if header.architecture != "llama":
        raise InvalidRequest(
            f"{source.name} is a {header.architecture!r} model; only LLaMA-style GGUFs can be converted back for tuning.",
            hint="Tune from the original checkpoint directory instead.",
            hint_zh="请改用原始检查点目录进行微调。",
            param="model",
        )
    with output_folder(target, {"work": "gguf-safetensors", "source": str(source)}) as folder:
        write_shards(folder, [_new_tensor(header, t) for t in header.tensors.values()], {}, progress)
        for name, content in tokenizer_files(header.metadata).items():
            with atomic_write(folder / name) as file:
                file.write(content)
        write_json(folder / "config.json", _config(header))


def _config(header: GgufFile) -> dict[str, Any]:
    heads, width = header.field("attention.head_count"), header.field("embedding_length")
    metadata = header.metadata
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": width,
        "intermediate_size": header.field("feed_forward_length"),
        "num_hidden_layers": header.field("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.field("attention.head_count_kv", heads),
        "head_dim": header.field("attention.key_length", width // heads),
        "max_position_embeddings": header.field("context_length"),
        "rms_norm_eps": header.field("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": header.field("rope.freq_base", 10000.0)},
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }
    return {key: value for key, value in config.items() if value is not None}


def _new_tensor(header: GgufFile, tensor: TensorInfo) -> NewTensor:
    name, heads = _ENDS.get(tensor.name, ""), 0
    if found := _BLOCK.fullmatch(tensor.name):
        layer, part, kind = found.groups()
        name = f"model.layers.{layer}.{_IN_BLOCK[part]}.{kind}" if part in _IN_BLOCK else ""
        if part in ("attn_q", "attn_k"):
            whole = header.field("attention.head_count")
            heads = whole if part == "attn_q" else header.field("attention.head_count_kv", whole)
    if not name:
        raise InvalidRequest(
            f"{header.path.name} has the tensor {tensor.name!r}, which is not part of a LLaMA checkpoint.",
            hint="Tune from the original checkpoint directory instead.",
            hint_zh="请改用原始检查点目录进行微调。",
        )
    return NewTensor(name, "F32", tensor.shape, lambda: _widened(header.path, tensor, heads))


def _widened(path: Path, tensor: TensorInfo, heads: int) -> Iterator[Any]:
    """Dequantise the tensor to float32 in blocks of rows; with `heads`, as a whole in the checkpoint's row order."""
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[tensor.dtype]
    raw = np.memmap(path, mode="r", offset=tensor.offset, shape=(tensor.nbytes,))
    rows = raw.reshape(tensor.shape[0] if len(tensor.shape) > 1 else 1, -1)
    if heads:
        values = gguf.quants.dequantize(rows, kind).reshape(tensor.shape)
        pairs = values.reshape(heads, tensor.shape[0] // heads // 2, 2, -1)  # interleaved pairs of a rotation
        yield np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(tensor.shape), dtype=np.float32)
        return
    for start in range(0, rows.shape[0], _ROWS):
        yield np.ascontiguousarray(gguf.quants.dequantize(rows[start : start + _ROWS], kind), dtype=np.float32)
