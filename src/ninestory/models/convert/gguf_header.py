"""A GGUF header as bytes, from plain Python values. Format: ggml/docs/gguf.md, version 3.

The encoding is deterministic, so that a killed conversion recognises its own partial file.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Any

from ninestory.models.convert.quantize import nbytes_of
from ninestory.models.gguf_reader import TENSOR_TYPES

ALIGNMENT = 32
_IDS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
Metadata = dict[str, Any]


def encode_header(metadata: Metadata, tensors: list[tuple[str, tuple[int, ...], str]]) -> bytes:
    """Encode the header up to the first tensor's bytes, padded.

    Args:
        metadata: str, bool, int (as u32), float (as f32), or collections of str, int (as i32) or float.
        tensors: (name, row-major shape, type) in the order of the data.
    """
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _text(key)
        _add_value(out, value)
    offset = 0
    for name, shape, kind in tensors:
        out += _text(name)
        out += struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], _IDS[kind], offset)  # fastest axis first
        offset += -(-nbytes_of(shape, kind) // ALIGNMENT) * ALIGNMENT
    out += b"\0" * (-len(out) % ALIGNMENT)
    return bytes(out)


def flag_offset(header: bytes, key: str) -> int:
    """Byte offset of a boolean value, which is set in place once it is known."""
    return header.index(_text(key) + struct.pack("<I", _BOOL)) + len(_text(key)) + 4


def _add_value(out: bytearray, value: Any) -> None:
    """Append a value piece by piece: a vocabulary has half a million strings."""
    if isinstance(value, Collection) and not isinstance(value, str):
        kind = _kind(next(iter(value))) if value else _STRING
        kind = _I32 if kind == _U32 else kind
        out += struct.pack("<IIQ", _ARRAY, kind, len(value))
        if kind != _STRING:
            out += struct.pack(f"<{len(value)}{_FORMS[kind]}", *value)
            return
        for text in value:
            out += _text(text)
        return
    kind = _kind(value)
    out += struct.pack("<I", kind)
    out += _text(value) if kind == _STRING else struct.pack(f"<{_FORMS[kind]}", value)


_FORMS = {_U32: "I", _I32: "i", _F32: "f", _BOOL: "?"}


def _kind(value: Any) -> int:
    for types, kind in ((bool, _BOOL), (int, _U32), (float, _F32), (str, _STRING)):
        if isinstance(value, types):
            return kind
    raise TypeError(f"a GGUF header holds no {type(value).__name__}")


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
