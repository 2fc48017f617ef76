"""How many threads a worker may take: the processors that are really free, not those that exist.

llama.cpp's workers spin while they wait: two threads on two busy processors fall to 1–2 tokens/s, so in doubt fewer.
"""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def free_processors() -> int:
    """Processors this process may use, less those that others keep busy; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = min(allowed, _cgroup_quota() or allowed)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(allowed, round(allowed - busy)))


def _cgroup_quota() -> int | None:
    """Whole processors granted by the control group (v2, then v1), or None where there is no limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((_CGROUP / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((_CGROUP / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota_us <= 0 else max(1, quota_us // period_us)
