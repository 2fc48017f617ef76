"""A strict reader of safetensors headers; tensor data is mapped, never copied. Format: huggingface/safetensors README."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged
from ninestory.models.tensor_info import TensorInfo

MAX_HEADER = 16 << 20  # about 150,000 tensors; parsed JSON takes some twenty times its text
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True)
class SafetensorsFile:
    path: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> SafetensorsFile:
    """Read and check a header: sizes, types, offsets without gap or overlap, the file's length exactly.

    Raises:
        Damaged: with the first thing that is wrong.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > min(MAX_HEADER, size - 8) or length < 2:
            raise _damaged(path, f"its header length is {length} bytes; the file has {size}")
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=lambda pairs: _unique(path, pairs))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its __metadata__ is not a map of strings")
    tensors = sorted(
        (_tensor(path, name, entry, 8 + length) for name, entry in header.items()), key=lambda t: (t.offset, t.nbytes)
    )
    expected = 8 + length
    for tensor in tensors:
        if tensor.offset != expected:
            raise _damaged(path, f"the tensor {tensor.name!r} has offset {tensor.offset}; expected {expected}")
        expected += tensor.nbytes
    if expected != size:
        raise _damaged(path, f"its tensors end at byte {expected}; expected {size}, the file's size")
    return SafetensorsFile(path, {t.name: t for t in tensors}, metadata)


def read_index(directory: Path) -> list[Path]:
    """List the shards of `model.safetensors.index.json`, or the files themselves if there is no index.

    Raises:
        Damaged: the index is no JSON, names a missing file or one outside the directory.
    """
    weight_map = read_weight_map(directory / "model.safetensors.index.json")
    if weight_map is None:
        return sorted(directory.glob("*.safetensors"))
    return [directory / name for name in sorted(set(weight_map.values()))]


def read_weight_map(index: Path) -> dict[str, str] | None:
    """Read the weight map, tensor → file name; None if there is no index.

    Raises:
        Damaged: the index is no JSON, names a missing file or one outside its directory.
    """
    if not index.is_file():
        return None
    try:
        if index.stat().st_size > MAX_HEADER:
            raise ValueError(f"it has {index.stat().st_size} bytes")
        weight_map = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(index, f"its weight_map is missing or malformed ({error!r})") from error
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not (index.parent / name).is_file():
            raise _damaged(index, f"it lists {name!r}, which is not in the directory")
    return weight_map


def read_tensor(file: SafetensorsFile, name: str) -> Any:
    """A tensor as a read-only view of the file. BF16 comes as uint16, float8 as uint8."""
    import numpy as np

    tensor = file.tensors[name]
    dtype = np.dtype(_NUMPY.get(tensor.dtype, "u1"))
    return np.memmap(file.path, dtype=dtype, mode="r", offset=tensor.offset, shape=tensor.shape or (1,)).reshape(
        tensor.shape
    )


def _tensor(path: Path, name: str, entry: Any, start: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        itemsize = DTYPE_BYTES[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"the entry of {name!r} is malformed ({error!r})") from error
    sane = len(shape) <= 8 and all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, begin, end))
    if not sane or end - begin != prod(shape) * itemsize:
        raise _damaged(
            path, f"the tensor {name!r} of shape {shape} and dtype {dtype} has the byte range {begin} to {end}"
        )
    return TensorInfo(name, dtype, shape, start + begin, end - begin)


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise _damaged(path, "a name is there twice")
    return data


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(
        f"{path.name} is damaged: {why[:500]}.",
        hint="Download it again (ninestory pull), or compare its sha256 with the publisher's.",
        hint_zh="请重新下载（ninestory pull），或与发布者的 sha256 比对。",
        code="damaged_safetensors",
    )
