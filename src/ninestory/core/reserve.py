"""A ballast file: deleting it on a full disk leaves room to read databases and to delete files."""

from __future__ import annotations

import os
from pathlib import Path

RESERVE_BYTES = 1 << 20
LOW_BYTES = 256 << 10  # below this SQLite cannot open a database in WAL mode, or write the log of a deletion


class DiskReserve:
    """The ballast file of a home, released while little disk space is left."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self) -> None:
        """Write the ballast file if it is missing, smaller if disk space is short."""
        try:
            size = min(RESERVE_BYTES, self._free_bytes())
            if self._path.exists() or size < LOW_BYTES:
                return
            with self._path.open("wb") as file:
                file.write(b"\0" * size)  # no hole in a file: a hole takes no room
        except OSError:  # others were faster: what was written of it goes
            self._path.unlink(missing_ok=True)

    def release_if_low(self) -> None:
        """Delete the ballast file if the disk is full."""
        if self._path.exists() and self._free_bytes() < LOW_BYTES:
            self._path.unlink(missing_ok=True)

    def _free_bytes(self) -> int:
        usage = os.statvfs(self._path.parent)
        return usage.f_bavail * usage.f_frsize
