"""Manifests of a Lance table that a stranger wrote: refused when they name places outside the table.

A manifest (`_versions/*.manifest`) lists the files of one version, below the table's folder unless it has `base_paths`:
folders or addresses anywhere that files are read from instead. The file ends with the position of a message (int64),
two version numbers and "LANC"; there stand the message's length (uint32) and a protocol buffer `lance.table.Manifest`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from ninestory.core.errors import Damaged

_MAX_BYTES = 256 << 20
_TAIL_BYTES = 16
# Fields of Manifest that tables of ours have or may have; left out are base_paths (18) and branch (20).
_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21})
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def check_manifests(folder: Path) -> None:
    """Look at every manifest below a folder.

    Raises:
        Damaged: one cannot be read, or refers to files outside its table.
    """
    for path in folder.rglob("*.manifest"):
        try:
            unknown = sorted(set(_fields(_message(path))) - _FIELDS)
        except (ValueError, IndexError, struct.error) as error:
            raise _damaged(f"the manifest {path.name} cannot be read") from error
        if unknown:
            raise _damaged(f"the manifest {path.name} has the field {unknown[0]}, which may lead out of the table")


def _message(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("too large")
    data = path.read_bytes()
    (position,) = struct.unpack("<q", data[-_TAIL_BYTES:-8])
    message = data[position + 4 : -_TAIL_BYTES]
    if position < 0 or data[-4:] != b"LANC" or struct.unpack("<I", data[position : position + 4]) != (len(message),):
        raise ValueError("no message")
    return message


def _fields(message: bytes) -> Iterator[int]:
    """The numbers of a protocol buffer's fields, in their order."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        yield key >> 3
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _LENGTH:
            length, at = _varint(message, at)
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
    if at != len(message):
        raise ValueError("cut")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of at most ten bytes, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")


def _damaged(why: str) -> Damaged:
    return Damaged(
        f"The archive is no exported knowledge base: {why}.",
        hint="Import a file written by 'ninestory kb export'.",
        hint_zh="请导入由 ninestory kb export 写出的文件。",
        code="damaged_archive",
    )
