"""Write a large file of a header and parts in blocks: atomic, and resumable after a kill.

The bytes go to `.NAME.part` next to the target, the number of durable ones to `.NAME.part.json`. The rename follows the
last fsync, so that the final name always means a complete file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ninestory.core.errors import Conflict, Damaged, DiskFull
from ninestory.core.paths import atomic_write, sync_directory
from ninestory.core.progress import Progress

_DURABLE_BYTES = 256 << 20  # between two notes of how far it is
_RESERVE_BYTES = 16 << 20


@dataclass(frozen=True)
class FilePart:
    """A part of `nbytes` bytes; every call of `blocks` yields them again."""

    name: str
    nbytes: int
    blocks: Callable[[], Iterable[Any]]


def write_stream(
    target: Path,
    header: bytes,
    parts: list[FilePart],
    progress: Progress,
    *,
    align: int = 1,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write `header` and `parts`, each part padded to a multiple of `align`, and rename.

    Args:
        finish: called with the complete, durable `.part` before the rename; may read it, change bytes
            in place, or reject it by raising Damaged, which discards the file.

    Raises:
        Conflict: another process writes the same file. DiskFull: there is no room; what is written is kept.
        Damaged: a part is not as long as it says.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    note = part.with_name(f"{part.name}.json")
    offsets = list(_offsets(len(header), parts, align))
    total = offsets[-1] if offsets else len(header)
    with _room(target), part.open("a+b") as file:
        _alone(file, target)
        started = {"header_sha256": hashlib.sha256(header).hexdigest()}
        done = _durable(file, note, started, offsets)
        _check_room(target, total - (offsets[done - 1] if done else 0))
        if not done:
            file.truncate(0)
            file.seek(0)
            file.write(header)
        durable = file.tell()
        for index in range(done, len(parts)):
            _write_part(file, parts[index], align)
            if file.tell() != offsets[index]:
                raise Damaged(
                    f"{target.name}: the part {parts[index].name!r} ends at {file.tell()}; expected {offsets[index]}."
                )
            if file.tell() - durable >= _DURABLE_BYTES or index == len(parts) - 1:
                durable = _sync(file)
                with atomic_write(note, "w") as written:
                    json.dump({**started, "parts": index + 1}, written)
            progress.update(file.tell(), total, parts[index].name)
        _sync(file)
        if finish:
            try:
                finish(part)
            except Damaged:  # writing on from here would only give the same file again
                part.unlink()
                note.unlink(missing_ok=True)
                raise
        part.replace(target)
        note.unlink(missing_ok=True)
        sync_directory(target.parent)


def _offsets(start: int, parts: list[FilePart], align: int) -> Iterator[int]:
    """End offset of each part, including padding."""
    for part in parts:
        start += -(-part.nbytes // align) * align
        yield start


def _write_part(file: BinaryIO, part: FilePart, align: int) -> None:
    begin = file.tell()
    for block in part.blocks():
        file.write(block.data if hasattr(block, "data") else block)
    file.write(b"\0" * (-(file.tell() - begin) % align))


def _durable(file: BinaryIO, note: Path, started: dict[str, str], offsets: list[int]) -> int:
    """Number of parts to keep from a killed run; seeks the file to their end."""
    try:
        kept = json.loads(note.read_text())
        parts = int(kept.pop("parts"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        parts, kept = 0, None
    if kept != started or not 0 < parts <= len(offsets) or os.fstat(file.fileno()).st_size < offsets[parts - 1]:
        return 0
    file.truncate(offsets[parts - 1])
    file.seek(0, os.SEEK_END)
    return parts


def _sync(file: BinaryIO) -> int:
    file.flush()
    os.fsync(file.fileno())
    return file.tell()


def _alone(file: BinaryIO, target: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Conflict(
            f"Another process is writing {target.name}.",
            hint="Wait for it, or choose another name.",
            hint_zh="请等待其完成，或更换名称。",
        ) from error


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed + _RESERVE_BYTES > free:
        raise _full(target, f"{needed // 10**6} MB are needed and {free // 10**6} MB are free")


@contextmanager
def _room(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(target, str(error.strerror)) from error
        raise


def _full(target: Path, why: str) -> DiskFull:
    return DiskFull(
        f"There is no room for {target.name}: {why}.",
        hint="Free some space and run the same command again: it goes on where it stood.",
        hint_zh="请清理磁盘后重新运行同一命令，会从中断处继续。",
    )
