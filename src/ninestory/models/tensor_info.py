"""Location of a tensor in a model file, shared by the GGUF and the safetensors reader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `shape` in row-major order (slowest first), `offset` in bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
