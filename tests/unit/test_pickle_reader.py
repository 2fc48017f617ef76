"""Checkpoints of torch are read without unpickling: what torch wrote comes back, what attacks is refused and never runs."""

from __future__ import annotations

import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ninestory.core.errors import Damaged
from ninestory.models.pickle_reader import read_pickle, read_tensor

CANARY = Path("canary-was-executed")


def _archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None, **how: Any) -> Path:
    """A zip of torch's layout with exactly this pickle."""
    with zipfile.ZipFile(path, "w", how.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in (storages or {}).items():
            archive.writestr(f"archive/data/{name}", content)
        archive.writestr("archive/version", "3\n")
    return path


def _refused(path: Path, words: str = "") -> Damaged:
    with pytest.raises(Damaged) as caught:
        read_pickle(path)
    assert words in caught.value.message
    assert len(caught.value.message) < 800
    assert caught.value.hint and caught.value.hint_zh != caught.value.hint
    return caught.value


@pytest.mark.torch
def test_what_torch_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    import torch

    base = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(
        plain=base.reshape(4, 6),
        transposed=base.reshape(4, 6).t(),
        sliced=base.reshape(4, 6)[1:3, ::2],
        brain=torch.tensor([1.0, -3.5], dtype=torch.bfloat16),
        half=torch.tensor([[0.5]], dtype=torch.float16),
        ids=torch.tensor([1, 2, 3]),
        empty=torch.zeros(0, 3),
        scalar=torch.tensor(2.5),
        parameter=torch.nn.Parameter(torch.ones(2)),
    )
    path = tmp_path / "pytorch_model.bin"
    torch.save({"model": state, "step": 7, "name": "tiny", "none": None}, path)
    found = read_pickle(path)
    assert found.values == {"step": 7, "name": "tiny", "none": None}
    assert set(found.tensors) == {f"model.{name}" for name in state}
    for name, tensor in state.items():
        array = read_tensor(found, f"model.{name}")
        assert array.shape == tuple(tensor.shape)
        if name == "brain":
            assert found.tensors["model.brain"].dtype == "BF16"
            assert np.array_equal(array, tensor.view(torch.uint16).numpy())
        else:
            assert np.array_equal(array, tensor.detach().numpy()), name
        assert array.flags.c_contiguous


@pytest.mark.torch
def test_the_format_before_torch_1_6_is_refused_by_its_name(tmp_path: Path) -> None:
    import torch

    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    error = _refused(tmp_path / "old.pth", "torch before 1.6")
    assert ".safetensors" in error.hint


class _Attack:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, Any]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_calls_is_refused_and_nothing_runs(protocol: int, zipped: bool, tmp_path: Path) -> None:
    canary = tmp_path / CANARY
    for attack in (_Attack(os.system, f"touch {canary}"), _Attack(eval, f"open({str(canary)!r},'w')")):
        data = pickle.dumps({"weights": attack}, protocol=protocol)
        path = tmp_path / "model.bin"
        _archive(path, data) if zipped else path.write_bytes(data)
        error = _refused(path)
        assert "system" in error.message or "eval" in error.message or not zipped or protocol < 2
        assert not canary.exists()


def test_the_message_names_what_the_file_asks_for(tmp_path: Path) -> None:
    data = pickle.dumps(_Attack(os.system, "true"), protocol=2)
    _refused(_archive(tmp_path / "m.bin", data), "imports 'posix system'")


# --- pickles that cost rather than call -------------------------------------------------------------------------

STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def _tensor(shape: bytes = b"K\x04\x85", strides: bytes = b"K\x01\x85", offset: bytes = b"K\x00") -> bytes:
    """Instructions that leave one tensor on the stack."""
    rest = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + offset + shape + strides + rest + b"tR"


def _dict_of(value: bytes, key: bytes = b"X\x01\x00\x00\x00w") -> bytes:
    return b"\x80\x02}" + key + value + b"s."


def _shared(depth: int) -> bytes:
    """A tuple of two tuples of two tuples …, all shared: 2^depth leaves in a few bytes a level."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))


def test_the_hand_made_tensor_is_sound(tmp_path: Path) -> None:
    path = _archive(tmp_path / "m.bin", _dict_of(_tensor()), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert read_tensor(read_pickle(path), "w").tolist() == [1, 2, 3, 4]


COSTLY: dict[str, bytes] = {
    "text of 4 GB that is not there": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of 2^63": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "2^60 shared entries": _dict_of(_shared(60)),
    "a key of 2^60 shared parts": _dict_of(b"N", key=_shared(60)),
    "a shape of 2^60 shared parts": _dict_of(_tensor(shape=_shared(60) + b"\x85")),
    "a module's name of 2^60 parts": b"\x80\x04" + _shared(60) + b"\x8c\x01x\x93.",
    "a storage's name of 2^60 parts": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    + _shared(60) + b"X\x03\x00\x00\x00cpuK\x04tQ.",
    "a shape that is a text of 1 MB": _dict_of(_tensor(shape=b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20))),
    "long keys nested": b"\x80\x02" + b"}" * 30 + b"N" + b"".join(
        b"X" + struct.pack("<I", 400) + b"k" * 400 + b"Ns" for _ in range(29)) + b".",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "10,000 lists deep": b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".",
    "a tensor of 2^40 elements by stride 0": _dict_of(_tensor(shape=b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85",
                                                              strides=b"K\x00\x85")),
    "a tensor beyond its storage": _dict_of(_tensor(shape=b"K\x05\x85")),
    "an offset beyond its storage": _dict_of(_tensor(offset=b"K\x01")),
    "a negative offset": _dict_of(_tensor(offset=b"J\xff\xff\xff\xff")),
    "a negative stride": _dict_of(_tensor(strides=b"J\xff\xff\xff\xff\x85")),
    "sizes without strides": _dict_of(_tensor(strides=b")")),
    "no end": b"\x80\x02}",
    "nothing on the stack": b"\x80\x02.",
    "items of no dictionary": b"\x80\x02]K\x01K\x02s.",
    "NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "INST": b"(S'true'\niposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\nS'true'\no.",
    "EXT1": b"\x80\x02\x82\x01.",
}  # fmt: skip


@pytest.mark.parametrize("name", COSTLY)
def test_a_pickle_that_costs_is_refused_at_once_in_little_memory(name: str, tmp_path: Path) -> None:
    path = _archive(tmp_path / "m.bin", COSTLY[name], {"0": bytes(16)})
    tracemalloc.start()
    try:
        _refused(path)
        assert tracemalloc.get_traced_memory()[1] < 250 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"\x80\x02}r\xff\xff\xff\x0f.", b"\x80\x04\x95" + b"\x00" * 7 + b"\x40}."])
def test_a_memo_index_or_frame_of_gigabytes_costs_nothing(data: bytes, tmp_path: Path) -> None:
    """Python's own unpickler takes 4 GB for the first of these."""
    path = _archive(tmp_path / "m.bin", data)
    tracemalloc.start()
    try:
        assert read_pickle(path).tensors == {}
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# --- the archive ------------------------------------------------------------------------------------------------


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    bomb = _archive(tmp_path / "m.bin", _dict_of(_tensor()), {"0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED)
    _refused(bomb, "compressed")


def test_a_second_pickle_or_none_is_refused(tmp_path: Path) -> None:
    path = _archive(tmp_path / "m.bin", b"\x80\x02}.")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"\x80\x02}.")
    _refused(path, "2 pickles")
    with zipfile.ZipFile(tmp_path / "n.bin", "w") as archive:
        archive.writestr("readme", b"")
    _refused(tmp_path / "n.bin", "0 pickles")


def test_a_table_of_members_that_claims_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = _archive(tmp_path / "m.bin", b"\x80\x02}.")
    raw = bytearray(path.read_bytes())
    end = raw.rfind(b"PK\x05\x06")
    raw[end + 12 : end + 16] = struct.pack("<I", 0xF0000000)
    path.write_bytes(raw)
    _refused(path)


def test_a_web_page_is_refused_with_its_first_words(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"<!DOCTYPE html><html>404")
    _refused(tmp_path / "m.bin", "<!DOCTYPE html>")


def test_a_storage_that_is_not_there_is_named(tmp_path: Path) -> None:
    _refused(_archive(tmp_path / "m.bin", _dict_of(_tensor())), "missing storage '0'")


def test_3000_damaged_files_give_a_report_or_a_refusal_and_nothing_else(tmp_path: Path) -> None:
    """No other exception, whatever byte is changed."""
    whole = _archive(tmp_path / "whole.bin", _dict_of(_tensor()), {"0": bytes(16)}).read_bytes()
    pickled = _dict_of(_tensor())
    draw = random.Random(5)
    path = tmp_path / "m.bin"
    read = 0
    for i in range(3000):
        raw = bytearray(whole if i % 2 else pickled)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(raw))
            raw[at] = draw.randrange(256)
            if draw.random() < 0.2:
                del raw[at : at + draw.randint(1, 8)]
        if i % 2:
            path.write_bytes(raw)
        else:
            _archive(path, bytes(raw), {"0": bytes(16)})
        try:
            found = read_pickle(path)
            for name in found.tensors:
                read_tensor(found, name)
            read += 1
        except Damaged:
            pass
    assert 100 < read < 2900
