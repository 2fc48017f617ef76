"""The strict reader against the safetensors package, and against headers that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ninestory.core.errors import Damaged
from ninestory.models.safetensors_reader import read_header, read_index, read_tensor
from tests import tiny_models


def test_tensors_read_back_as_the_package_wrote_them(tmp_path: Path) -> None:
    weights: dict[str, Any] = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.array([1.5, -2], dtype=np.float16),
        "scalar": np.array(7, dtype=np.int64),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "flags": np.array([True, False]),
    }
    header = read_header(tiny_models.write_safetensors(tmp_path / "m.safetensors", weights))
    assert set(header.tensors) == set(weights)
    for name, array in weights.items():
        if array.size:
            assert np.array_equal(read_tensor(header, name), array), name
        assert header.tensors[name].shape == array.shape


def test_a_tensor_is_a_view_of_the_file_not_a_copy(tmp_path: Path) -> None:
    header = read_header(tiny_models.write_safetensors(tmp_path / "m.safetensors"))
    tensor = read_tensor(header, "token_embd.weight")
    assert isinstance(tensor.base, np.memmap) or isinstance(tensor, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tensor[0, 0] = 1


def _entry(begin: int, end: int, shape: list[Any] | str | None = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


LIES: dict[str, dict[str, Any] | bytes] = {
    "no JSON": b"{nonsense",
    "a list": b"[1,2]",
    "not UTF-8": b'{"\xff":1}',
    "a name twice": b'{"t":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
    b'"t":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "nested 100,000 deep": b'{"t":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "unknown type": {"t": _entry(0, 16, dtype="F128")},
    "type that is a list": {"t": _entry(0, 16, dtype=["F32"])},
    "shape that is text": {"t": _entry(0, 16, shape="4")},
    "shape with true": {"t": _entry(0, 16, shape=[True, 4])},
    "shape of 100,000 dimensions": {"t": _entry(0, 16, shape=[1 << 40] * 100_000)},
    "negative offset": {"t": _entry(-16, 16, shape=[8])},
    "size against shape": {"t": _entry(0, 16, shape=[5])},
    "gap": {"t": _entry(0, 4), "u": _entry(8, 16)},
    "overlap": {"t": _entry(0, 12), "u": _entry(8, 16)},
    "beyond the file": {"t": _entry(0, 64)},
    "bytes that belong to nothing": {"t": _entry(0, 8)},
    "entry that is a number": {"t": 5},
    "metadata that is no text": {"__metadata__": {"a": {}}, "t": _entry(0, 16)},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(lie: str, tmp_path: Path) -> None:
    with pytest.raises(Damaged) as caught:
        read_header(tiny_models.raw_safetensors(tmp_path / "m.safetensors", LIES[lie], bytes(16)))
    assert len(caught.value.message) < 600  # however large the value seen
    assert caught.value.hint and caught.value.hint_zh != caught.value.hint


@pytest.mark.parametrize("raw", [b"", b"1234567", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}", bytes(8)])
def test_a_length_that_lies_is_refused_before_anything_is_read(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(raw)
    with pytest.raises(Damaged):
        read_header(tmp_path / "m.safetensors")


def test_an_empty_tensor_may_share_its_place_with_the_next(tmp_path: Path) -> None:
    header = {"b": _entry(0, 16), "a": _entry(0, 0), "z": _entry(16, 16)}
    assert len(read_header(tiny_models.raw_safetensors(tmp_path / "m.safetensors", header, bytes(16))).tensors) == 3


def test_the_shards_are_those_of_the_index(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors", "old.safetensors"):
        tiny_models.write_safetensors(tmp_path / name)
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [p.name for p in read_index(tmp_path)] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"x": 5}}',
        '{"weight_map": {"x": "gone.safetensors", "y": 5}}',
        '{"weight_map": {"x": "gone.safetensors"}}',
        '{"weight_map": {"x": "../outside.safetensors"}}',
        '{"weight_map": {"x": "/etc/passwd"}}',
        '{"weight_map": {"x": ".."}}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_an_index_that_lies_or_leaves_the_folder_is_refused(index: str, tmp_path: Path) -> None:
    tiny_models.write_safetensors(tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(index)
    if index == '{"weight_map": []}':
        assert read_index(folder) == []
        return
    with pytest.raises(Damaged):
        read_index(folder)
