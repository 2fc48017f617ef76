"""How much memory a model will take, before it is loaded: the one place of this arithmetic.

Used by `ninestory plan`, by the page, and by the server's admission. Checked against measured peaks by
benchmarks/plan_error.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ninestory.core.config import RuntimeSettings
from ninestory.core.machine import Gpu, available_bytes, gpus
from ninestory.core.tasks import VERBS, Task
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.resolved import ResolvedModel

DEFAULT_CONTEXT = 4096
_MB = 1 << 20
# Resident memory of a worker process before it opens a model, by runtime (measured with no model open).
_PROCESS_BYTES = {"llamacpp": 56 * _MB, "onnx": 160 * _MB, "torch": 330 * _MB, "remote": 60 * _MB}
_TOKENIZER_BYTES = 300 * _MB  # the `tokenizers` package with a unigram vocabulary of 250,000 pieces
_LLAMA_CELLS = 256  # llama.cpp rounds every slot's cache up to a multiple of it
_UBATCH = 256  # tokens of one prefill step (runtimes/llamacpp/library.py)
# Measured with llama.cpp: what its tables and ours take for a token of the vocabulary, and a slot's logits and samplers
_VOCABULARY_BYTES_PER_TOKEN, _SLOT_BYTES_PER_TOKEN = 800, 20
_DTYPE_BYTES = {"float32": 4, "": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True)
class ModelShape:
    """What the arithmetic needs to know of a decoder. `kv_heads × head_dim` is the width of one key."""

    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    heads: int = 0


@dataclass(frozen=True)
class Plan:
    """Predicted peak, in bytes, part by part, and whether it fits now."""

    model: str
    runtime: str
    context: int
    slots: int
    process_bytes: int
    weight_bytes: int
    cache_bytes: int
    activation_bytes: int
    available_bytes: int
    optimizer_bytes: int = 0
    gpus: list[Gpu] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def total_bytes(self) -> int:
        parts = (self.process_bytes, self.weight_bytes, self.cache_bytes, self.activation_bytes, self.optimizer_bytes)
        return sum(parts)

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes


def plan(model: ResolvedModel, settings: RuntimeSettings) -> Plan:
    """Plan the inference of a model that is on this machine, with the settings it would be loaded with."""
    if model.format == "remote":
        return _plan(model.reference, "remote", None, 0, 0, 1, settings)
    if "chat" not in model.tasks and model.format not in ("onnx", "gguf"):
        return plan_weights(model.reference, model.tasks, model.total_bytes)
    if model.format == "onnx":
        return _plan(model.reference, "onnx", None, model.total_bytes + _TOKENIZER_BYTES, model.context, 1, settings)
    shape = shape_of(model)
    context = settings.context or min(model.context, DEFAULT_CONTEXT)
    slots = 1 if model.task == "embedding" else max(1, settings.slots)
    if model.format == "gguf":
        return _plan(model.reference, "llamacpp", shape, model.total_bytes, context, slots, settings)
    if model.architecture == "rwkv":
        return _plan_rwkv(model, context, slots, settings)
    weights = parameters(shape) * _DTYPE_BYTES.get(settings.dtype, 4) if shape else 2 * model.total_bytes
    return _plan(model.reference, "torch", shape, weights, context, slots, settings)


def _plan_rwkv(model: ResolvedModel, context: int, slots: int, settings: RuntimeSettings) -> Plan:
    """A state of fixed size for each slot, and a copy of it at the last whole chunk of its prompt."""
    from ninestory.models.rwkv_release import shapes_of, state_bytes

    assert model.path is not None
    weights = model.total_bytes // 2 * _DTYPE_BYTES.get(settings.dtype, 4)  # released in 16 bit
    states = 2 * slots * state_bytes(shapes_of(model.path))
    made = _plan(model.reference, "torch", None, weights, context, slots, settings)
    return replace(made, cache_bytes=states, notes=["the state of a text has one size, whatever its length"])


def plan_shape(
    name: str, shape: ModelShape | None, weight_bytes: int, context: int, slots: int, runtime: str = "llamacpp"
) -> Plan:
    """Plan a model that is not on this machine, from the catalogue's figures; without a shape, of its weights alone."""
    return _plan(name, runtime, shape, weight_bytes, context, slots, RuntimeSettings())


def plan_weights(name: str, tasks: Sequence[Task], weight_bytes: int) -> Plan:
    """Plan a model of which only the weights are counted: one that draws, sees, hears or speaks."""
    note = f"{', '.join(tasks)}: used by 'ninestory {VERBS[tasks[0]]}'" if tasks else "no model by itself"
    return replace(
        _plan(name, "torch", None, weight_bytes, 0, 1, RuntimeSettings()),
        notes=[note, "only weights and process are counted"],
    )


def largest_that_fits(plans: list[Plan]) -> Plan | None:
    """Of several variants the largest that fits."""
    fitting = [p for p in plans if p.fits]
    return max(fitting, key=lambda p: p.weight_bytes, default=None)


def _plan(
    name: str,
    runtime: str,
    shape: ModelShape | None,
    weight_bytes: int,
    context: int,
    slots: int,
    settings: RuntimeSettings,
) -> Plan:
    cache = activations = 0
    if shape and runtime == "llamacpp":
        cells = -(-context // _LLAMA_CELLS) * _LLAMA_CELLS
        cache = kv_bytes(shape, cells * slots, 2)
        cache += settings.prompt_cache_mb * _MB  # prompts kept for reuse are copies of their cells; it fills with time
        activations = _llama_compute_bytes(shape, context, slots)
    elif shape:
        cache = kv_bytes(shape, context * slots, 4 if settings.dtype in ("", "float32", "int8") else 2)
        activations = 64 * (4 * shape.hidden + 2 * shape.ffn) * 4 + slots * shape.vocabulary * 4 * 3
    return Plan(
        model=name,
        runtime=runtime,
        context=context,
        slots=slots,
        process_bytes=_PROCESS_BYTES[runtime],
        weight_bytes=weight_bytes,
        cache_bytes=cache,
        activation_bytes=activations,
        available_bytes=available_bytes(),
        gpus=gpus(),
    )


def kv_bytes(shape: ModelShape, tokens: int, itemsize: int) -> int:
    """Keys and values of `tokens` tokens in every layer."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * itemsize


def parameters(shape: ModelShape) -> int:
    """Parameters of a LLaMA-shaped decoder with an untied head."""
    attention = 2 * shape.hidden * (shape.hidden + shape.kv_heads * shape.head_dim)
    return shape.layers * (attention + 3 * shape.hidden * shape.ffn) + 2 * shape.vocabulary * shape.hidden


def _llama_compute_bytes(shape: ModelShape, context: int, slots: int) -> int:
    """What llama.cpp touches beside weights and cache: one prefill step, its mask, tokenizer, logits and samplers.

    Flash attention never holds the scores; the mask is there in 32 and in 16 bits.
    """
    step = _UBATCH * (4 * shape.hidden + shape.ffn) * 4
    mask = _UBATCH * context * 6
    return step + mask + shape.vocabulary * (_VOCABULARY_BYTES_PER_TOKEN + slots * _SLOT_BYTES_PER_TOKEN)


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
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))

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
