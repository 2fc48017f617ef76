"""Threads follow the processors that are really free."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ninestory.runtimes import threads


@pytest.mark.parametrize(
    ("allowed", "quota", "load", "expected"),
    [
        (8, None, 0.1, 8),
        (8, None, 3.2, 5),
        (8, None, 9.0, 1),  # never none
        (2, None, 1.4, 1),
        (8, 2, 0.0, 2),
        (8, 2, 1.0, 1),
        (1, None, 0.0, 1),
    ],
)
def test_free_processors(
    monkeypatch: pytest.MonkeyPatch, allowed: int, quota: int | None, load: float, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(threads, "_cgroup_quota", lambda: quota)
    assert threads.free_processors() == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_the_control_group_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    assert threads._cgroup_quota() == expected
