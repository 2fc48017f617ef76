"""Where things are on the user's machine, and how they are written: atomically, inside NINESTORY_HOME only.

`Home` is the one place that knows the data layout of DESIGN.md.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ninestory.core.errors import DiskFull, InvalidRequest


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
    def run_dir(self) -> Path:
        """Sockets and locks of running processes; mode 0700."""
        return self.root / "run"

    @property
    def state_db(self) -> Path:
        return self.root / "state.db"


def inside(base: Path, *parts: str) -> Path:
    """Join request-supplied `parts` below `base` and prove that the result stays there.

    Raises:
        InvalidRequest: the joined, resolved path leaves `base` (through "..", an absolute part or a symlink).
    """
    base = base.resolve()
    path = base.joinpath(*parts).resolve()
    if not path.is_relative_to(base) or "\0" in "".join(parts):
        raise InvalidRequest(
            f"The path {'/'.join(parts)!r} leaves its directory.",
            hint="Use a plain name without '..' and without a leading '/'.",
            hint_zh="请使用不含“..”、不以“/”开头的普通名称。",
            code="path_outside",
        )
    return path


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO]:  # type: ignore[type-arg]
    """Write to a temporary neighbour, fsync, rename: readers see the old file or the whole new one.

    Raises:
        DiskFull: the device has no room (the temporary file is removed).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
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


def sync_directory(path: Path) -> None:
    """Make a rename in `path` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
