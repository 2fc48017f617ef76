"""Sizes of an installed model, from its own header or config; without numpy and torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninestory.models.from_path import read_config
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.resolved import ResolvedModel
from ninestory.models.rwkv_release import shapes_of, state_bytes
from ninestory.models.shapes import DEFAULT_CONTEXT, TIED_FAMILIES, ModelShape, ModelSizes, Packing


def sizes_of(model: ResolvedModel, context: int, slots: int) -> ModelSizes:
    """Read the sizes of an installed model from its files.

    Args:
        context: tokens of one conversation; 0 = the smaller of the model's own and 4096.
    """
    recurrent = model.architecture == "rwkv"
    has_shape = not recurrent and ("chat" in model.tasks or model.format == "gguf")
    config = read_config(model.path) if has_shape and model.path and model.path.is_dir() else {}
    return ModelSizes(
        model=model.reference,
        family=model.architecture,
        tasks=model.tasks,
        shape=shape_of(model) if has_shape and model.path else None,
        stored_bytes=model.total_bytes,
        itemsize=4 if str(config.get("dtype") or config.get("torch_dtype")).endswith("float32") else 2,
        packing=packing_of(config),
        tied=bool(config.get("tie_word_embeddings", model.architecture in TIED_FAMILIES)),
        context=context or min(model.context, DEFAULT_CONTEXT),
        slots=1 if {"embedding", "rerank"} & set(model.tasks) else max(1, slots),
        state_bytes=state_bytes(shapes_of(model.path)) if recurrent and model.path else 0,
    )


def packing_of(config: Mapping[str, Any]) -> Packing:
    """How config.json says that the linears are packed."""
    described = config.get("quantization_config")
    if isinstance(described, dict):
        return "nf4" if described.get("load_in_4bit") else "gptq"
    if bits := config.get("quantization_bit"):  # ChatGLM's
        return "int4" if bits == 4 else "int8"
    return "gptq" if config.get("wbits", 32) < 16 else ""  # MOSS's


def shape_of(model: ResolvedModel) -> ModelShape | None:
    """The shape from the model's own header or config; None when it states none."""
    assert model.path is not None
    if model.format == "gguf":
        file = read_gguf(model.path)
        heads = _first(file.field("attention.head_count", 1)) or 1
        kv_heads = _first(file.field("attention.head_count_kv", heads)) or heads
        hidden = int(file.field("embedding_length"))
        return ModelShape(
            layers=int(file.field("block_count")),
            hidden=hidden,
            kv_heads=kv_heads,
            head_dim=int(file.field("attention.key_length", hidden // heads)),
            ffn=_first(file.field("feed_forward_length", 4 * hidden)),
            vocabulary=file.tensors["token_embd.weight"].shape[0],
            heads=heads,
        )
    return _config_shape(model.path) if model.path.is_dir() else None


def _config_shape(directory: Path) -> ModelShape | None:
    """From config.json, whose names differ between families."""
    config = read_config(directory)

    def number(*names: str, default: int = 0) -> int:
        return next((int(config[n]) for n in names if isinstance(config.get(n), (int, float))), default)

    hidden = number("hidden_size", "n_embd", "d_model", "n_embed")
    layers = number("num_hidden_layers", "num_layers", "n_layer")
    heads = number("num_attention_heads", "n_head", default=1)
    if not hidden or not layers:
        return None
    kv_heads = number("num_key_value_heads", "num_kv_heads", default=1 if config.get("multi_query") else heads)
    return ModelShape(
        layers=layers,
        hidden=hidden,
        kv_heads=kv_heads,
        head_dim=number("head_dim", default=hidden // heads),
        ffn=number("intermediate_size", "inner_hidden_size", "n_inner", default=4 * hidden),
        vocabulary=number("vocab_size"),
        heads=heads,
    )


def _first(value: Any) -> int:
    """Some files give one figure a layer."""
    return int(max(value)) if isinstance(value, list) else int(value)
