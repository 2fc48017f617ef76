"""This process and its parent: resident memory, and death together with the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def resident_bytes(pid: str = "self") -> int:
    """Resident memory of a process, 0 where /proc is missing."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process with its parent's spawning thread; then check that it still lives."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
