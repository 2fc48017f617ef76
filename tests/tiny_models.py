"""Tiny real model files, written by the field's own writers, for tests that read, damage or load them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ninestory.models.gguf_architectures import Sizes

LAYERS, WIDTH, HEADS, KV_HEADS, FFN = 2, 64, 4, 2, 96
VOCABULARY = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "ab", "▁the", "t"]


SIZES = Sizes(
    layers=2, width=64, ffn=128, heads=4, kv_heads=4, head=16, value=16,
    vocabulary=len(VOCABULARY), context=64, token_types=2,
)  # fmt: skip


def tensors(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """name → float32 weights of a LLaMA of two layers, by GGUF's names, row-major."""
    rng = np.random.default_rng(seed)
    head = WIDTH // HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(VOCABULARY), WIDTH), "output_norm.weight": (WIDTH,)}
    for i in range(LAYERS):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (WIDTH,),
            f"blk.{i}.attn_q.weight": (WIDTH, WIDTH),
            f"blk.{i}.attn_k.weight": (KV_HEADS * head, WIDTH),
            f"blk.{i}.attn_v.weight": (KV_HEADS * head, WIDTH),
            f"blk.{i}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{i}.ffn_norm.weight": (WIDTH,),
            f"blk.{i}.ffn_gate.weight": (FFN, WIDTH),
            f"blk.{i}.ffn_up.weight": (FFN, WIDTH),
            f"blk.{i}.ffn_down.weight": (WIDTH, FFN),
        }
    return {
        name: (np.ones(shape) if "norm" in name else 0.1 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_gguf(path: Path, *, tokens: list[str] | None = None, **changed: Any) -> Path:
    """A LLaMA in Q8_0. `changed` replaces keys of the header by their last part: rms_epsilon=0.0, heads=3, …"""
    import gguf

    tokens = VOCABULARY if tokens is None else tokens
    given = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "kv_heads": KV_HEADS, "ffn": FFN, "rms_epsilon": 1e-5}
    given |= {"bos": 1, "scores": [0.0] * len(tokens), "types": [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]}
    given |= changed
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(given["width"])
    writer.add_block_count(given["layers"])
    writer.add_feed_forward_length(given["ffn"])
    writer.add_head_count(given["heads"])
    writer.add_head_count_kv(given["kv_heads"])
    writer.add_layer_norm_rms_eps(given["rms_epsilon"])
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(given["scores"])
    writer.add_token_types(given["types"])
    writer.add_bos_token_id(given["bos"])
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if given.get("chat_template"):
        writer.add_chat_template(given["chat_template"])
    for name, weights in tensors().items():
        if weights.ndim == 1:
            writer.add_tensor(name, weights)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_architecture(path: Path, architecture: str, tensors: dict[str, tuple[int, ...]], **keys: Any) -> Path:
    """A file of random weights with the common keys of every architecture."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(SIZES.context)
    writer.add_embedding_length(SIZES.width)
    writer.add_block_count(SIZES.layers)
    writer.add_feed_forward_length(SIZES.ffn)
    writer.add_head_count(keys.get("heads", SIZES.heads))
    writer.add_head_count_kv(keys.get("kv_heads", SIZES.kv_heads))
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_rope_dimension_count(keys.get("rotated", keys.get("head", SIZES.head)))
    if keys.get("head"):
        writer.add_key_length(keys["head"])
        writer.add_value_length(keys["head"])
    if "experts" in keys:
        writer.add_expert_count(keys["experts"])
        writer.add_expert_used_count(keys["used"])
    if "pooling" in keys:
        writer.add_uint32(f"{architecture}.pooling_type", keys["pooling"])
    writer.add_token_type_count(SIZES.token_types)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([0.0] * SIZES.vocabulary)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (SIZES.vocabulary - 259)])
    rng = np.random.default_rng(0)
    for name, shape in tensors.items():
        writer.add_tensor(name, (0.1 * rng.standard_normal(shape)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_safetensors(path: Path, weights: dict[str, np.ndarray[Any, Any]] | None = None) -> Path:
    from safetensors.numpy import save_file

    save_file(weights or tensors(), path)
    return path


def raw_safetensors(path: Path, header: dict[str, Any] | bytes, data: bytes) -> Path:
    """A file with exactly this header, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write_encoder(folder: Path) -> Path:
    """A BERT of one layer with drawn weights, as a sentence-transformers directory; it knows twenty words."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    from ninestory.models.convert.sentence_encoder import EMBEDDED_NAMES, LAYER_NAMES

    hidden, inner, positions = 32, 64, 128
    folder.mkdir(exist_ok=True)
    words = ["<unk>", "<pad>", *(f"word{n}" for n in range(20))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(0)
    rows = {"words": len(words), "positions": positions, "types": 2}
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, name in EMBEDDED_NAMES.items():
        shapes[f"embeddings.{name}"] = (rows[ours], hidden) if ours in rows else (hidden,)
    for ours, name in LAYER_NAMES.items():
        out, given = {"inner": (inner, hidden), "outer": (hidden, inner)}.get(ours, (hidden, hidden))
        shapes[f"encoder.layer.0.{name}.weight"] = (out,) if ours.endswith("norm") else (out, given)
        shapes[f"encoder.layer.0.{name}.bias"] = (out,)
    tensors = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    config: dict[str, Any] = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": hidden}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": inner, "vocab_size": len(words)}
    config |= {"max_position_embeddings": positions, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu", "pad_token_id": 1}))
    return folder
