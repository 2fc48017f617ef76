"""The strict reader against files of the gguf package, and against headers that lie."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ninestory.core.errors import Damaged
from ninestory.models.gguf_reader import read_gguf
from tests import tiny_models


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def _key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


ARCHITECTURE = _key("general.architecture", 8, _text("llama"))


def _tensor(name: str | bytes = "t", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _file(keys: list[bytes], tensors: list[bytes], data: int = 16, claims: tuple[int, int] | None = None) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, *(claims or (len(tensors), len(keys))))
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def test_every_tensor_of_a_real_file_is_where_the_gguf_package_finds_it(tmp_path: Path) -> None:
    import gguf

    path = tiny_models.write_gguf(tmp_path / "tiny.gguf")
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    raw = path.read_bytes()
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        found = ours.tensors[tensor.name]
        assert found.dtype == tensor.tensor_type.name
        assert found.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert raw[found.offset : found.offset + found.nbytes] == np.asarray(tensor.data).tobytes()
    assert ours.metadata["tokenizer.ggml.tokens"] == tiny_models.VOCABULARY
    assert ours.kinds["tokenizer.ggml.scores"] == "f32[]"
    assert ours.field("block_count") == tiny_models.LAYERS
    assert ours.trailing_bytes == 0


def test_bytes_after_the_last_tensor_are_counted(tmp_path: Path) -> None:
    path = tiny_models.write_gguf(tmp_path / "tiny.gguf")
    with path.open("ab") as file:
        file.write(b"x" * 77)
    assert read_gguf(path).trailing_bytes == 77


LIES: dict[str, tuple[bytes, str]] = {
    "not GGUF": (b"<!DOCTYPE html>", "magic is b'<!DO'"),
    "version": (b"GGUF" + struct.pack("<IQQ", 9, 1, 1), "version is 9"),
    "no tensors": (_file([ARCHITECTURE], []), "claims 0 tensors"),
    "2^60 tensors": (_file([ARCHITECTURE], [_tensor()], claims=(1 << 60, 1)), "claims"),
    "2^60 keys": (_file([ARCHITECTURE], [_tensor()], claims=(1, 1 << 60)), "claims"),
    "no architecture": (_file([], [_tensor()]), "general.architecture is missing"),
    "a key twice": (_file([ARCHITECTURE, ARCHITECTURE], [_tensor()]), "is duplicated"),
    "string of 2^62 bytes": (_file([_text("k") + struct.pack("<IQ", 8, 1 << 62)], [_tensor()]), "a length of"),
    "key that is not UTF-8": (_file([_key(b"\xff\xfe", 4, bytes(4))], [_tensor()]), "not UTF-8"),
    "value of unknown type": (_file([_key("k", 77, bytes(8))], [_tensor()]), "unknown type 77"),
    "list of 2^40 floats": (_file([_key("k", 9, struct.pack("<IQ", 6, 1 << 40))], [_tensor()]), "entries; expected"),
    "list of 2^40 strings": (_file([_key("k", 9, struct.pack("<IQ", 8, 1 << 40))], [_tensor()]), "entries; expected"),
    "list of lists": (_file([_key("k", 9, struct.pack("<IQ", 9, 1))], [_tensor()]), "nested"),
    "list of unknown type": (_file([_key("k", 9, struct.pack("<IQ", 55, 1))], [_tensor()]), "unknown type 55"),
    "alignment 1": (_file([ARCHITECTURE, _key("general.alignment", 4, struct.pack("<I", 1))], [_tensor()]), "1"),
    "alignment 48": (_file([ARCHITECTURE, _key("general.alignment", 4, struct.pack("<I", 48))], [_tensor()]), "48"),
    "alignment as text": (_file([ARCHITECTURE, _key("general.alignment", 8, _text("32"))], [_tensor()]), "type str"),
    "tensor name of 64 bytes": (_file([ARCHITECTURE], [_tensor("n" * 64)]), "length of 64 bytes"),
    "tensor twice": (_file([ARCHITECTURE], [_tensor(), _tensor(offset=32)], 64), "is duplicated"),
    "no dimensions": (_file([ARCHITECTURE], [_tensor(shape=())]), "0 dimensions"),
    "five dimensions": (_file([ARCHITECTURE], [_tensor(shape=(1, 1, 1, 1, 1))]), "5 dimensions"),
    "dimension 0": (_file([ARCHITECTURE], [_tensor(shape=(0,))]), "shape"),
    "unknown tensor type": (_file([ARCHITECTURE], [_tensor(kind=4)]), "unknown type 4"),
    "row that is no whole block": (
        _file([ARCHITECTURE], [_tensor(shape=(33,), kind=8)], 64),
        "expected a multiple of 32",
    ),
    "overlap": (_file([ARCHITECTURE], [_tensor("a"), _tensor("b")], 64), "has offset 0; expected 32"),
    "gap": (_file([ARCHITECTURE], [_tensor("a"), _tensor("b", offset=64)], 128), "has offset 64; expected 32"),
    "data beyond the file": (_file([ARCHITECTURE], [_tensor(shape=(1 << 30, 1 << 30))]), "ends at byte"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_with_what_is_wrong(lie: str, tmp_path: Path) -> None:
    raw, words = LIES[lie]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(Damaged) as caught:
        read_gguf(path)
    assert words in caught.value.message
    assert caught.value.hint and caught.value.hint_zh != caught.value.hint


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = tiny_models.write_gguf(tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 400, 7), *range(400, len(whole), 1777)]:
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            read_gguf(path)


def _peak(path: Path) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(Damaged):
            read_gguf(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_lists_that_are_really_there_cannot_fill_the_memory(tmp_path: Path) -> None:
    """A byte a flag in the file is a Python object in a list: many such lists must end the reading."""
    path = tmp_path / "lists.gguf"
    count = 3 << 20
    flags: list[Any] = [_key(f"k{i}", 9, struct.pack("<IQ", 7, count) + bytes(count)) for i in range(8)]
    path.write_bytes(_file([ARCHITECTURE, *flags], [_tensor()]))
    assert _peak(path) < 120 << 20
