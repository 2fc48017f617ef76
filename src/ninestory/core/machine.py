"""What this machine has: memory, and the GPUs that its drivers speak of. No torch."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    name: str
    total_bytes: int
    free_bytes: int


def available_bytes() -> int:
    """Memory that can be taken without swapping, within the control group's limit."""
    import psutil

    return min(int(psutil.virtual_memory().available), _cgroup_left())


def total_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def gpus() -> list[Gpu]:
    """NVIDIA GPUs by their driver's own tool; an empty list where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in lines if line.count(",") == 2]
    return [Gpu(name, int(total) << 20, int(free) << 20) for name, total, free in rows]


def _cgroup_left() -> int:
    """Bytes left under a version-2 control group's limit; very many where there is none."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1 << 62
    return (1 << 62) if limit == "max" else max(0, int(limit) - used)
