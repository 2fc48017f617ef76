"""Sizes of a model, as plans need them: plain data. `read_sizes.py` reads them from a model's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ninestory.core.tasks import Task

Packing = Literal["", "int8", "int4", "gptq", "nf4"]
DEFAULT_CONTEXT = 4096
TIED_FAMILIES = ("chatglm", "bloom", "gpt2", "opt")  # whose configs may leave tie_word_embeddings out


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


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """What a runtime's arithmetic knows of a model, be it installed or only in the catalogue.

    Attributes:
        shape: None where nothing states it.
        stored_bytes: of the weights on disk.
        itemsize: bytes of one stored weight; for packed models, of one that is not packed.
        packing: of the linears in the files and in memory: ChatGLM's int8 and int4, gptq, nf4; "" = they are floats.
        tied: the head shares the embedding's memory.
        context: tokens of one conversation. slots: requests decoded together.
        state_bytes: of one text's state in a recurrent model, which has no cache.
    """

    model: str
    family: str
    tasks: tuple[Task, ...]
    stored_bytes: int
    context: int
    slots: int
    shape: ModelShape | None = None
    itemsize: int = 2
    packing: Packing = ""
    tied: bool = False
    state_bytes: int = 0
    notes: tuple[str, ...] = ()

    def packs_while_loading(self, dtype: str) -> bool:
        """Whether float weights are packed when they are loaded as `dtype`."""
        return dtype in ("int8", "int4") and not self.packing


def kv_bytes(shape: ModelShape, tokens: int, itemsize: int) -> int:
    """Keys and values of `tokens` tokens in every layer."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * itemsize


def parameters(shape: ModelShape) -> int:
    """Parameters of a LLaMA-shaped decoder with an untied head."""
    attention = 2 * shape.hidden * (shape.hidden + shape.kv_heads * shape.head_dim)
    return shape.layers * (attention + 3 * shape.hidden * shape.ffn) + 2 * shape.vocabulary * shape.hidden
