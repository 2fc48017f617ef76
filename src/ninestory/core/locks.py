"""A lock on a file for one process at a time; the system releases it when the holder ends."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def waiting_lock(path: Path, waiting: Callable[[], None], poll_seconds: float = 0.2) -> Iterator[None]:
    """Hold the lock at `path`; call `waiting` on every poll while another process holds it (it may raise)."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(poll_seconds)
        yield
