"""Large files: whole or not there, continued where a kill left them, alone."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from ninestory.core.errors import Cancelled, Conflict, Damaged, DiskFull
from ninestory.core.progress import Silent
from ninestory.models.convert import stream
from ninestory.models.convert.safetensors_writer import NewTensor, write_shards
from ninestory.models.convert.stream import FilePart, write_stream

HEADER = b"header"
TEXTS = [b"first", b"second part", b"third", b"fourth", b""]
WHOLE = HEADER + b"".join(text + b"\0" * (-len(text) % 4) for text in TEXTS)


class Killed(BaseException):
    """The end of a process, as far as its files are concerned."""


@pytest.fixture
def durable_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_DURABLE_BYTES", 1)


def parts(made: list[int], killed_at: int | None = None) -> list[FilePart]:
    def blocks(index: int) -> list[bytes]:
        if index == killed_at:
            raise Killed
        made.append(index)
        text = TEXTS[index]
        return [text[:2], text[2:]]

    return [FilePart(f"part {i}", len(text), lambda i=i: blocks(i)) for i, text in enumerate(TEXTS)]  # type: ignore[misc]


@pytest.mark.usefixtures("durable_at_once")
def test_a_killed_run_is_continued_and_gives_the_same_file(tmp_path: Path) -> None:
    target, first, second = tmp_path / "out.bin", [], []
    with pytest.raises(Killed):
        write_stream(target, HEADER, parts(first, killed_at=3), Silent(), align=4)
    assert first == [0, 1, 2] and not target.exists()
    write_stream(target, HEADER, parts(second), Silent(), align=4)
    assert second == [3, 4] and target.read_bytes() == WHOLE
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


@pytest.mark.usefixtures("durable_at_once")
@pytest.mark.parametrize("what", ["another header", "a cut part", "a broken note", "no note", "bytes behind"])
def test_what_an_earlier_run_left_is_not_believed_blindly(what: str, tmp_path: Path) -> None:
    target, made = tmp_path / "out.bin", []
    with pytest.raises(Killed):
        write_stream(target, HEADER, parts([], killed_at=3), Silent(), align=4)
    part, note = tmp_path / ".out.bin.part", tmp_path / ".out.bin.part.json"
    header = HEADER
    if what == "another header":
        header = b"HEADER"
    elif what == "a cut part":
        os.truncate(part, 9)
    elif what == "a broken note":
        note.write_text('{"parts": "x"')
    elif what == "no note":
        note.unlink()
    else:
        part.write_bytes(part.read_bytes() + b"torn")
    write_stream(target, header, parts(made), Silent(), align=4)
    assert target.read_bytes() == header + WHOLE[len(HEADER) :]
    assert made == ([3, 4] if what == "bytes behind" else [0, 1, 2, 3, 4])


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    with (tmp_path / ".out.bin.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="Another process"):
            write_stream(tmp_path / "out.bin", HEADER, parts([]), Silent())


def test_a_full_disk_is_seen_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskFull, match="0 MB are free") as caught:
        write_stream(tmp_path / "out.bin", HEADER, parts([]), Silent())
    assert caught.value.hint_zh and not (tmp_path / "out.bin").exists()


def test_a_refused_file_is_not_kept_and_a_wrong_length_is_an_error(tmp_path: Path) -> None:
    def refuse(part: Path) -> None:
        assert part.read_bytes() == WHOLE
        raise Damaged("no")

    with pytest.raises(Damaged, match="no"):
        write_stream(tmp_path / "out.bin", HEADER, parts([]), Silent(), align=4, finish=refuse)
    assert not list(tmp_path.iterdir())
    with pytest.raises(Damaged, match="'short' ends at 9"):
        write_stream(tmp_path / "b.bin", HEADER, [FilePart("short", 5, lambda: [b"abc"])], Silent())


@pytest.mark.usefixtures("durable_at_once")
def test_a_cancelled_run_keeps_what_it_has(tmp_path: Path) -> None:
    watcher, made = Silent(), []
    watcher.cancelled = True
    with pytest.raises(Cancelled):
        write_stream(tmp_path / "out.bin", HEADER, parts([]), watcher, align=4)
    assert json.loads((tmp_path / ".out.bin.part.json").read_text())["parts"] == 1
    write_stream(tmp_path / "out.bin", HEADER, parts(made), Silent(), align=4)
    assert made == [1, 2, 3, 4]


def test_the_progress_of_many_files_ends_where_it_says(tmp_path: Path) -> None:
    seen: list[tuple[float, float | None]] = []

    class Watcher(Silent):
        def update(self, done: float, total: float | None = None, message: str = "") -> None:
            seen.append((done, total))

    tensors = [NewTensor(f"t{i}", "I8", (7,), lambda: [bytes(7)]) for i in range(3)]
    files = write_shards(tmp_path, tensors, {}, Watcher(), shard_bytes=8)
    assert len(files) == 3
    assert all(total is not None and done <= total for done, total in seen)
    assert seen[-1][0] == seen[-1][1] == sum(file.stat().st_size for file in files)
