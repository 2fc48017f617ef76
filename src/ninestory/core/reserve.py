"""Room on a full disk for what frees some: a file of a home that is given up so that something can be deleted.

Deleting takes room too: SQLite writes what is to go into a log first, and opens a file of shared memory beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

RESERVE_BYTES = 1 << 20
_NAME = ".reserve"


def keep_reserve(root: Path) -> None:
    """Set room aside in a home, unless it is there already or the disk is nearly full."""
    path = root / _NAME
    if path.exists() or shutil.disk_usage(root).free < 2 * RESERVE_BYTES:
        return
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        finally:
            os.close(descriptor)
    except FileExistsError:  # another process was faster
        pass
    except OSError:  # the room went meanwhile, or the file system sets none aside
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def room_to_delete(root: Path) -> Iterator[None]:
    """Give the home's reserve up while something is deleted, where the disk is full; keep a new one afterwards."""
    if root.is_dir() and shutil.disk_usage(root).free < RESERVE_BYTES:
        (root / _NAME).unlink(missing_ok=True)
    try:
        yield
    finally:
        if root.is_dir():
            keep_reserve(root)
