"""Settings of glibc's allocator, so that freed blocks return to the system; saves the most memory in CPU training."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_BYTES = 256 * 1024


def fix_malloc_thresholds() -> bool:
    """Fix the mmap and trim thresholds at 256 KiB; call before the first tensors. Returns False without glibc.

    By itself glibc raises the mmap threshold with every freed block and then keeps what is freed: the peak of a LoRA
    run was 1957 MiB instead of 1074 (135M parameters, gradient checkpointing), for 3 % more speed.
    """
    return _set({_M_MMAP_THRESHOLD: _BYTES, _M_TRIM_THRESHOLD: _BYTES})


def share_malloc_arenas(count: int) -> bool:
    """Share `count` arenas among all threads; call before they start. Returns False without glibc.

    By itself glibc makes eight arenas a processor, each of which keeps what its threads freed.
    """
    return _set({_M_ARENA_MAX: count})


def _set(values: dict[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(bool(mallopt(name, value)) for name, value in values.items())
