"""A tensor of a GGUF file that is being written: name, shape, and lazily computed float32 rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ninestory.models.convert.checkpoint import Checkpoint, widen

# "ends" are the embedding and the head, which bear four bits badly; "small" stays float32.
Role = Literal["matrix", "ends", "small"]


@dataclass(frozen=True)
class GgufTensor:
    name: str
    shape: tuple[int, ...]  # row-major
    role: Role
    rows: Callable[[int, int], Any]  # (start, stop) of the first axis → float32


def take(checkpoint: Checkpoint, key: str, name: str, order: Any = None, role: Role | None = None) -> GgufTensor:
    """A tensor of the checkpoint under GGUF's name, its rows in `order` (int64 [rows]) where they stand in another.

    Vectors are "small", other tensors "matrix" unless `role` says so.
    """
    tensor = checkpoint.tensor(key)
    rows = tensor.shape[0] if order is None else len(order)

    def read(start: int, stop: int) -> Any:
        view = tensor.view()
        chosen = view[start:stop] if order is None else view[order[start:stop]]
        return widen(chosen, tensor.dtype, key)

    return GgufTensor(name, (rows, *tensor.shape[1:]), role or ("matrix" if len(tensor.shape) > 1 else "small"), read)


def computed(name: str, shape: tuple[int, ...], make: Callable[[], Any]) -> GgufTensor:
    """A small float32 array computed when it is written, so that no layer's array stays in memory."""
    return GgufTensor(name, shape, "small", lambda start, stop: make()[start:stop])


def whole(checkpoint: Checkpoint, key: str) -> Any:
    """Read a small tensor completely, as float32."""
    tensor = checkpoint.tensor(key)
    return widen(tensor.view(), tensor.dtype, key)


def renamed(
    checkpoint: Checkpoint, names: dict[str, str], orders: dict[str, Any] | None = None, role: Role | None = None
) -> list[GgufTensor]:
    """`.weight` and, where there is one, `.bias` of each module {key: GGUF name}; `orders` by GGUF name."""
    made = []
    for key, name in names.items():
        order = (orders or {}).get(name)
        made.append(take(checkpoint, f"{key}.weight", f"{name}.weight", order, role))
        if f"{key}.bias" in checkpoint.tensors:
            made.append(take(checkpoint, f"{key}.bias", f"{name}.bias", order))
    return made
