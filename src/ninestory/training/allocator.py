"""glibc's allocator, told to give freed blocks back: the largest single memory effect in training on a CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BYTES = 256 * 1024


def fix_malloc_thresholds() -> bool:
    """Fix the mmap and the trim threshold at 256 KiB; call before the first tensors. False where there is no glibc.

    By itself glibc raises the mmap threshold with every freed block and then keeps what is freed: the peak of a LoRA
    run was 1957 MiB instead of 1074 (135M parameters, gradient checkpointing), for 3 % more speed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _BYTES))
