"""A strict reader of GGUF headers: every stated length is checked against the file before use.

llama.cpp aborts the process on some damaged headers and the gguf package accepts 40 % of mutated files, so no file
reaches native code before this check. Reads the header only; tensor data stays on disk.
Format: ggml/docs/gguf.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ninestory.core.errors import Damaged
from ninestory.models.tensor_info import TensorInfo

MAX_TENSORS, MAX_KEYS, MAX_NAME, MAX_STRING = 1 << 20, 1 << 16, 63, 1 << 24
MAX_ENTRIES = 1 << 22  # of all lists together: a Python object each, so this bounds the reader's memory
MAX_HEADER_BYTES = 1 << 28
# id → (name, elements a block, bytes a block)
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_KIND_NAMES = {
    0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 8: "str", 10: "u64", 11: "i64",
    12: "f64",
}  # fmt: skip


@dataclass(frozen=True)
class GgufFile:
    path: Path
    metadata: dict[str, Any]
    kinds: dict[str, str]  # key → "u32", "str", "f32[]": llama.cpp reads some lists without asking for their type
    tensors: dict[str, TensorInfo]
    alignment: int
    trailing_bytes: int

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def field(self, name: str, default: Any = None) -> Any:
        """Value of a key with the architecture's prefix, e.g. field("block_count")."""
        return self.metadata.get(f"{self.architecture}.{name}", default)


def read_gguf(path: Path) -> GgufFile:
    """Read and check a header.

    Raises:
        Damaged: with the first thing that is wrong and its value.
    """
    with path.open("rb") as file:
        return _Reader(file, path).read()


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path, self.size = file, path, path.stat().st_size
        self.position = self.entries = 0
        self.kinds: dict[str, str] = {}

    def read(self) -> GgufFile:
        magic = self._take(4)
        if magic != b"GGUF":
            raise self._damaged(f"its magic is {magic!r}; expected b'GGUF'")
        version = self._scalar(4)
        if version not in (2, 3):
            raise self._damaged(f"its version is {version}; expected 2 or 3")
        tensor_count, key_count = self._scalar(10), self._scalar(10)
        if not 0 < tensor_count <= MAX_TENSORS or key_count > MAX_KEYS:
            raise self._damaged(f"it claims {tensor_count} tensors and {key_count} keys")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"the key {key!r} is duplicated")
            metadata[key] = self._value(self._scalar(4), key)
        alignment = metadata.get("general.alignment", 32)
        if self.kinds.get("general.alignment", "u32") != "u32":
            raise self._damaged(
                f"its alignment has type {self.kinds['general.alignment']}; expected an unsigned integer"
            )
        if alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise self._damaged(f"its alignment is {alignment!r}")
        if not isinstance(metadata.get("general.architecture"), str):
            raise self._damaged("general.architecture is missing")
        relative = [self._tensor() for _ in range(tensor_count)]
        tensors, trailing = self._place(relative, alignment)
        return GgufFile(self.path, metadata, self.kinds, tensors, alignment, trailing)

    def _tensor(self) -> tuple[str, str, tuple[int, ...], int, int]:
        name = self._string(MAX_NAME)
        dimensions = self._scalar(4)
        if not 1 <= dimensions <= 4:
            raise self._damaged(f"the tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._scalar(10) for _ in range(dimensions))  # fastest first in the file
        kind, offset = self._scalar(4), self._scalar(10)
        if kind not in TENSOR_TYPES:
            raise self._damaged(f"the tensor {name!r} has the unknown type {kind}")
        dtype, block, block_bytes = TENSOR_TYPES[kind]
        if not all(0 < n < 1 << 40 for n in shape) or shape[0] % block:
            raise self._damaged(
                f"the tensor {name!r} has shape {shape}; expected a multiple of {block} as first size ({dtype})"
            )
        return name, dtype, shape[::-1], offset, prod(shape) // block * block_bytes

    def _place(
        self, relative: list[tuple[str, str, tuple[int, ...], int, int]], alignment: int
    ) -> tuple[dict[str, TensorInfo], int]:
        """Tensors must follow one another without gap or overlap and end inside the file."""
        start = -(-self.position // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        expected = 0
        for name, dtype, shape, offset, nbytes in relative:
            if name in tensors:
                raise self._damaged(f"the tensor {name!r} is duplicated")
            if offset != expected:
                raise self._damaged(f"the tensor {name!r} has offset {offset}; expected {expected}")
            if start + offset + nbytes > self.size:
                raise self._damaged(
                    f"the tensor {name!r} ends at byte {start + offset + nbytes}; expected at most {self.size}, the file's size"
                )
            tensors[name] = TensorInfo(name, dtype, shape, start + offset, nbytes)
            expected = offset + -(-nbytes // alignment) * alignment
        return tensors, max(0, self.size - (start + expected))

    def _value(self, kind: int, key: str) -> Any:
        self.kinds[key] = _KIND_NAMES.get(kind, "")
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(kind)
        inner, count = self._scalar(4), self._scalar(10)
        if inner == _ARRAY:
            raise self._damaged(f"the key {key!r} holds nested lists")
        smallest = 8 if inner == _STRING else struct.calcsize(_SCALARS.get(inner, "<B"))
        if count * smallest > self._left():
            raise self._damaged(f"the key {key!r} has {count} entries; expected at most what the file can hold")
        self.entries += count
        if self.entries > MAX_ENTRIES:
            raise self._damaged(f"its lists have more than {MAX_ENTRIES} entries")
        self.kinds[key] = f"{_KIND_NAMES.get(inner, '')}[]"
        if inner == _STRING:
            return [self._string() for _ in range(count)]
        if inner not in _SCALARS:
            raise self._damaged(f"the key {key!r} has the unknown type {inner}")
        form = _SCALARS[inner]
        return list(struct.unpack(f"<{count}{form[1]}", self._take(count * struct.calcsize(form))))

    def _string(self, longest: int = MAX_STRING) -> str:
        length = self._scalar(10)
        if length > longest or length > self._left():
            raise self._damaged(f"a string has a length of {length} bytes")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged("a string is not UTF-8") from error

    def _scalar(self, kind: int) -> Any:
        if kind not in _SCALARS:
            raise self._damaged(f"a value has the unknown type {kind}")
        form = _SCALARS[kind]
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _left(self) -> int:
        return self.size - self.position

    def _take(self, count: int) -> bytes:
        self.position += count
        if self.position > min(self.size, MAX_HEADER_BYTES):
            raise self._damaged(f"its header continues after byte {min(self.size, MAX_HEADER_BYTES)}")
        data = self.file.read(count)
        if len(data) != count:
            raise self._damaged(f"it ends at byte {self.size}, inside its header")
        return data

    def _damaged(self, why: str) -> Damaged:
        return Damaged(
            f"{self.path.name} is not a valid GGUF file: {why[:500]}.",
            hint="Download it again (ninestory pull), or compare its sha256 with the publisher's.",
            hint_zh="请重新下载（ninestory pull），或与发布者的 sha256 比对。",
            code="damaged_gguf",
        )
