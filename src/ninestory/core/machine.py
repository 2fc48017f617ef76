"""Memory and GPUs of this machine, from /proc and the drivers, without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """A GPU. `cuda`: whether it is NVIDIA's."""

    name: str
    total_bytes: int
    free_bytes: int
    cuda: bool = False


@dataclass(frozen=True)
class FreeMemory:
    """Memory that can be taken now. `cards`: NVIDIA's, by torch's names ("cuda:0"), in their order."""

    ram_bytes: int
    cards: dict[str, Gpu] = field(default_factory=dict)


def free_memory() -> FreeMemory:
    """What main memory and each NVIDIA card has free; other makers' cards are listed by `gpus`, and not planned for."""
    return FreeMemory(available_bytes(), cuda_cards())


def cuda_cards() -> dict[str, Gpu]:
    """NVIDIA's cards by torch's names. Those that CUDA_VISIBLE_DEVICES hides are left out, as torch leaves them out.

    The order is the driver's (by bus); torch's is the same where CUDA_DEVICE_ORDER is PCI_BUS_ID, which workers set.
    """
    cards = _nvidia()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (numbers := _card_numbers(visible)) is not None:
        cards = [cards[number] for number in numbers if number < len(cards)]
    return {f"cuda:{number}": card for number, card in enumerate(cards)}


def _card_numbers(visible: str) -> list[int] | None:
    """The numbers in CUDA_VISIBLE_DEVICES up to the first that is none; None where cards are named otherwise."""
    names = [name.strip() for name in visible.split(",")]
    if any(name.startswith(("GPU-", "MIG-")) for name in names):
        return None
    numbers = []
    for name in names:
        if not name.isdecimal():
            break
        numbers.append(int(name))
    return numbers


def available_bytes() -> int:
    """Available memory without swapping, within the control group's limit."""
    import psutil

    return min(int(psutil.virtual_memory().available), _cgroup_left())


def total_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def gpus() -> list[Gpu]:
    """List NVIDIA GPUs (from nvidia-smi) and AMD GPUs (from sysfs); empty if there are none."""
    return _nvidia() + amd_gpus(Path("/sys/class/drm"))


def amd_gpus(drm: Path) -> list[Gpu]:
    """GPUs of the amdgpu driver below `drm`, which states their memory in bytes."""
    found = []
    for total in sorted(drm.glob("card*/device/mem_info_vram_total")):
        name = total.with_name("product_name")
        try:
            size, used = (int(f.read_text(encoding="ascii")) for f in (total, total.with_name("mem_info_vram_used")))
            title = name.read_text(encoding="utf-8").strip() if name.is_file() else ""
        except (OSError, ValueError):
            continue
        found.append(Gpu(title or f"AMD GPU {total.parent.parent.name}", size, size - used))
    return found


def _nvidia() -> list[Gpu]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in lines if line.count(",") == 2]
    return [Gpu(name, int(total) << 20, int(free) << 20, cuda=True) for name, total, free in rows]


def _cgroup_left() -> int:
    """Bytes left under the cgroup v2 memory limit; a very large number if there is no limit."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1 << 62
    return (1 << 62) if limit == "max" else max(0, int(limit) - used)
