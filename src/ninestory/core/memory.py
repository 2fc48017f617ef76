"""glibc's allocator, told to give freed blocks back: the largest single memory effect in training on a CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_BYTES = 256 * 1024


def fix_malloc_thresholds() -> bool:
    """Fix the mmap and the trim threshold at 256 KiB; call before the first tensors. False where there is no glibc.

    By itself glibc raises the mmap threshold with every freed block and then keeps what is freed: the peak of a LoRA
    run was 1957 MiB instead of 1074 (135M parameters, gradient checkpointing), for 3 % more speed.
    """
    return _set({_M_MMAP_THRESHOLD: _BYTES, _M_TRIM_THRESHOLD: _BYTES})


def share_malloc_arenas(count: int) -> bool:
    """Let all threads allocate from `count` arenas; call before they start. False where there is no glibc.

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
