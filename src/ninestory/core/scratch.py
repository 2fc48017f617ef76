"""Temporary folders that are removed even after their process was killed.

The folder's process holds a lock on it, which the system lets go whatever ends the process. Who makes the next folder
of the same kind, or asks for it, removes those whose lock is free. The lock is on the folder itself, so that there is
no file to clean up and no number of a process that another may have by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

LLAMA_SOCKETS = "ninestory-llama-"  # the kind of the folder of a llama.cpp socket


class ScratchFolder:
    """A folder of mode 0700 that lives as long as this object, or as its process.

    Args:
        kind: the beginning of its name; "a-" and "a-b-" are different kinds, and a kind must not begin with another.
        parent: where it is made; the system's folder for temporary files by default.
    """

    def __init__(self, kind: str, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        sweep_scratch(kind, parent)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=kind, dir=parent))
            try:
                self._lock: int | None = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # another process took it for a dead one's before the lock
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.is_dir():
                return
            os.close(self._lock)

    @property
    def descriptor(self) -> int | None:
        """The open descriptor of the folder; None once it is closed."""
        return self._lock

    def close(self) -> None:
        """Remove it. Idempotent."""
        if self._lock is None:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sweep_scratch(kind: str, parent: Path | None = None) -> None:
    """Remove this user's folders of a kind whose process is gone."""
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{kind}*"):
        with contextlib.suppress(OSError):  # it is gone, another user's, or in use
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.getuid():
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
