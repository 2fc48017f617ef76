"""What the machine has, against the kernel's own figures and drivers' files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ninestory.core import machine


def test_free_memory_is_part_of_all_memory() -> None:
    assert 0 < machine.available_bytes() <= machine.total_bytes()
    kilobytes = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    assert machine.total_bytes() == kilobytes * 1024


def test_amd_gpus_are_read_from_the_kernel_and_a_broken_entry_is_left_out(tmp_path: Path) -> None:
    for card, total, used in (("card0", "17163091968", "1000000"), ("card1", "nonsense", "0")):
        device = tmp_path / card / "device"
        device.mkdir(parents=True)
        (device / "mem_info_vram_total").write_text(f"{total}\n")
        (device / "mem_info_vram_used").write_text(f"{used}\n")
    (tmp_path / "card0" / "device" / "product_name").write_text("Instinct\n")
    assert machine.amd_gpus(tmp_path) == [machine.Gpu("Instinct", 17163091968, 17162091968)]


def test_nvidia_gpus_are_what_the_drivers_tool_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A10, 23028, 22500'\necho 'broken line'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.Gpu("NVIDIA A10", 23028 << 20, 22500 << 20, cuda=True) in machine.gpus()
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert all(gpu.name != "NVIDIA A10" for gpu in machine.gpus())
