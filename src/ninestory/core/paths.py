"""Paths on the user's machine, and how files are written: atomically, inside NINESTORY_HOME only.

`Home` is the one place that knows the data layout of DESIGN.md.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ninestory.core.errors import DiskFull, InvalidRequest
from ninestory.core.text import is_text

_PART = re.compile(r"\..+\.(\d+)\.part")  # of `part_of`
MAX_NAME_BYTES = 255  # of one file or folder, on every common file system

_AT_FDCWD = -100  # paths as they are, from the working directory
_RENAME_EXCHANGE = _RENAME_SWAP = 2


@dataclass(frozen=True)
class Home:
    """The directories below NINESTORY_HOME. Properties only name a path; `ensure` creates the root."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """NINESTORY_HOME, else the platform's user-data directory."""
        if value := os.environ.get("NINESTORY_HOME"):
            return cls(Path(value).expanduser().resolve())
        import platformdirs

        return cls(Path(platformdirs.user_data_dir("ninestory", appauthor=False)))

    def ensure(self) -> Home:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def kb(self) -> Path:
        return self.root / "kb"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def media(self) -> Path:
        """The content-addressed spool of `core/media.py`."""
        return self.root / "media"

    @property
    def files(self) -> Path:
        """Uploads of `/v1/files`."""
        return self.root / "files"

    @property
    def cache(self) -> Path:
        """Derived data, safe to delete: converted starters, ONNX graphs."""
        return self.root / "cache"

    @property
    def reserve(self) -> Path:
        """Ballast that is given up when the disk is full (`core/reserve.py`)."""
        return self.run_dir / "reserve"

    @property
    def run_dir(self) -> Path:
        """Sockets and locks of running processes; mode 0700."""
        return self.root / "run"

    @property
    def state_db(self) -> Path:
        return self.root / "state.db"


def inside(base: Path, *parts: str) -> Path:
    """Join request-supplied `parts` below `base` and prove that the result stays there.

    Raises:
        InvalidRequest: the joined, resolved path leaves `base` (through "..", an absolute part or a symlink), or a part
            is no file name (NUL, half a character, too long).
    """
    names = "/".join(parts).split("/")
    if bad := [n for n in names if "\0" in n or not is_text(n) or len(n.encode()) > MAX_NAME_BYTES]:
        raise InvalidRequest(
            f"{bad[0][:80]!r} is not a file name; expected at most {MAX_NAME_BYTES} bytes of text.",
            hint="Use a plain, shorter name.",
            hint_zh="请使用较短的普通名称。",
            code="invalid_name",
        )
    base = base.resolve()
    path = base.joinpath(*parts).resolve()
    if not path.is_relative_to(base):
        raise InvalidRequest(
            f"The path {'/'.join(parts)!r} leaves its directory.",
            hint="Use a plain name without '..' and without a leading '/'.",
            hint_zh="请使用不含“..”、不以“/”开头的普通名称。",
            code="path_outside",
        )
    return path


def part_of(path: Path) -> Path:
    """Path of the temporary file next to `path` that this process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def sweep_parts(folder: Path) -> None:
    """Remove temporary files directly below `folder` that ended processes left behind."""
    for part in folder.glob(".*.part"):
        process = _PART.fullmatch(part.name)
        if process and not _is_alive(int(process[1])):
            part.unlink(missing_ok=True)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO]:  # type: ignore[type-arg]
    """Write to a temporary neighbour, fsync, rename: readers see the old file or the whole new one.

    Raises:
        DiskFull: the device has no room (the temporary file is removed).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    encoding = None if "b" in mode else "utf-8"
    try:
        with part.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"No room left on the disk while writing {path.name}.",
                hint="Free some space (ninestory ls shows what models take) and run the same command again.",
                hint_zh="请清理磁盘（ninestory ls 可查看模型占用），然后重新运行同一命令。",
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def replace_directory(made: Path, target: Path) -> None:
    """Give the finished directory `made` the name of `target`; what had that name is removed.

    The two change places in one step, so that at every moment one of them is there, whole. On a filesystem that cannot
    do so, a kill between two renames leaves the old directory under `.NAME.old`, and the next call puts it back first.
    """
    for file in made.rglob("*"):
        if file.is_file():
            with file.open("rb") as written:
                os.fsync(written.fileno())
    old = target.with_name(f".{target.name}.old")
    if old.is_dir() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    if not target.exists():
        made.rename(target)
    elif _exchange(made, target):
        made.rename(old)
    else:
        target.rename(old)
        made.rename(target)
    sync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically; returns False if the system does not support it."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):
        return bool(libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
    if hasattr(libc, "renamex_np"):  # macOS
        return bool(libc.renamex_np(*names, _RENAME_SWAP) == 0)
    return False


def sync_directory(path: Path) -> None:
    """Make a rename in `path` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
