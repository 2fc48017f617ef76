"""`doctor`: diagnosis of this machine or of a checkpoint, with a cure for each problem, in both languages."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

from ninestory.core.machine import available_bytes
from ninestory.core.paths import Home
from ninestory.models.doctor_checkpoint import examine_checkpoint
from ninestory.models.finding import Finding, note, ok, problem

_EXTRAS = {"torch": "torch", "transformers": "torch", "peft": "train", "bitsandbytes": "train"}


def diagnose(path: Path | None, home: Home) -> list[Finding]:
    """Findings about this machine, or about the checkpoint at `path`."""
    return examine_checkpoint(path) if path is not None else _machine(home)


def _machine(home: Home) -> list[Finding]:
    findings = []
    version = ".".join(map(str, sys.version_info[:3]))
    findings.append(ok(f"Python {version}", f"Python {version}"))
    for package, extra in _EXTRAS.items():
        try:
            installed = importlib.metadata.version(package)
            findings.append(ok(f"{package} {installed}", f"{package} {installed}"))
        except importlib.metadata.PackageNotFoundError:
            cure = f"pip install 'ninestory[{extra}]'"
            findings.append(note(f"{package} is not installed", f"未安装 {package}", cure, cure))
    free = available_bytes()
    findings.append(ok(f"{free / 1e9:.1f} GB of memory are free", f"可用内存 {free / 1e9:.1f} GB"))
    if free < 1e9:
        findings.append(
            problem(
                "Less than 1 GB of memory is free",
                "可用内存不足 1 GB",
                "Close programs, or choose a smaller model.",
                "请关闭其他程序，或选择更小的模型。",
            )
        )
    root = home.ensure().root
    room = shutil.disk_usage(root).free
    if not os.access(root, os.W_OK):
        findings.append(
            problem(
                f"{root} cannot be written",
                f"{root} 不可写",
                "Set NINESTORY_HOME to a folder of yours.",
                "请将 NINESTORY_HOME 设为自己的目录。",
            )
        )
    findings.append(ok(f"{room / 1e9:.1f} GB of disk are free", f"可用磁盘 {room / 1e9:.1f} GB"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    if load > cores * 0.75:
        findings.append(
            note(
                f"{load:.1f} of {cores} processors are busy",
                f"{cores} 个处理器中 {load:.1f} 个忙碌",
                "Fewer threads are faster now: --threads 1.",
                "此时线程少更快：--threads 1。",
            )
        )
    return findings
