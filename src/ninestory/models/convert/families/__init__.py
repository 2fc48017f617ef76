"""Mapping of each model family's checkpoint to llama.cpp's tensors, one module per llama.cpp architecture.

Each has `tensors(checkpoint)` and `metadata(checkpoint)`; `family_of` selects the module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ninestory.core.errors import Unsupported
from ninestory.models.convert.checkpoint import Checkpoint
from ninestory.models.convert.families import bloom, falcon, llama, phi2, rwkv
from ninestory.models.convert.gguf_tensor import GgufTensor


@dataclass(frozen=True)
class GgufFamily:
    """Converter of a model family. `architecture`: llama.cpp's name; `metadata`: its keys, without that prefix."""

    architecture: str
    metadata: Callable[[Checkpoint], dict[str, Any]]
    tensors: Callable[[Checkpoint], list[GgufTensor]]


_BY_MODEL_TYPE = {
    "llama": GgufFamily("llama", llama.metadata, llama.tensors),
    "mistral": GgufFamily("llama", llama.metadata, llama.tensors),
    "qwen2": GgufFamily("qwen2", llama.metadata, llama.tensors),
    "qwen3": GgufFamily("qwen3", llama.metadata, llama.tensors),
    "bloom": GgufFamily("bloom", bloom.metadata, bloom.tensors),
    "falcon": GgufFamily("falcon", falcon.metadata, falcon.tensors),
    "RefinedWebModel": GgufFamily("falcon", falcon.metadata, falcon.tensors),  # Falcon's first releases
    "RefinedWeb": GgufFamily("falcon", falcon.metadata, falcon.tensors),
    "gptj": GgufFamily("phi2", phi2.metadata, phi2.tensors),
    "codegen": GgufFamily("phi2", phi2.metadata, phi2.tensors),
    "moss": GgufFamily("phi2", phi2.metadata, phi2.tensors),
}
_RWKV = {
    "6": GgufFamily("rwkv6", rwkv.metadata_v6, rwkv.tensors_v6),
    "7": GgufFamily("rwkv7", rwkv.metadata_v7, rwkv.tensors_v7),
}


def converts_to_gguf(model_type: str) -> bool:
    """Whether checkpoints of this `model_type` can be converted to GGUF."""
    return model_type in _BY_MODEL_TYPE


def family_of(checkpoint: Checkpoint) -> GgufFamily:
    """Select a checkpoint's family by its config.json, or for RWKV by its keys.

    Raises:
        Unsupported: llama.cpp or this converter does not support the family.
    """
    if version := rwkv.version_of(checkpoint):
        if version not in _RWKV:
            raise _cannot(f"RWKV-{version}", "only RWKV-6 and RWKV-7 are supported")
        return _RWKV[version]
    model_type = str(checkpoint.config.get("model_type", ""))
    if model_type == "chatglm":
        raise _cannot("ChatGLM-6B", "its 'chatglm' is the second generation, a different architecture")
    if model_type not in _BY_MODEL_TYPE:
        known = ", ".join([*_BY_MODEL_TYPE, "RWKV-6", "RWKV-7"])
        raise _cannot(f"model_type {model_type!r}", f"expected one of {known}")
    return _BY_MODEL_TYPE[model_type]


def _cannot(what: str, why: str) -> Unsupported:
    return Unsupported(
        f"Conversion of {what} to llama.cpp is not supported: {why}.",
        hint="Load the original checkpoint: the torch runtime supports it.",
        hint_zh="请直接加载原检查点：torch 运行时可以运行它。",
        param="model",
        code="no_gguf_family",
    )
