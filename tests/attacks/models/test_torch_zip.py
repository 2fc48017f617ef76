"""Torch files whose zip directory lies."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ninestory.core.errors import Damaged
from ninestory.models.verify import verify


def end_record(disk: int = 0, entries: int = 0, size: int = 0, offset: int = 0) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", disk, disk, entries, entries, size, offset, 0)


def locator(disk: int, disks: int, offset: int = 0) -> bytes:
    return struct.pack("<4sLQL", b"PK\6\7", disk, offset, disks)


@pytest.mark.parametrize(
    "data",
    [
        locator(0, 2) + end_record(),
        locator(1, 1) + end_record(),
        b"\0" * 100 + locator(0, 1, 1 << 62) + end_record(),
        end_record(disk=7),
        end_record(entries=0xFFFF, size=0xFFFFFFFF, offset=0xFFFFFFFF),
    ],
    ids=["two disks", "another disk", "far record", "disk of a short record", "all ones"],
)
@pytest.mark.parametrize("suffix", ["bin", "pth", "pt"])
def test_a_zip_of_several_disks_is_a_typed_error(tmp_path: Path, data: bytes, suffix: str) -> None:
    file = tmp_path / f"pytorch_model.{suffix}"
    file.write_bytes(data)
    with pytest.raises(Damaged):
        verify(file)
