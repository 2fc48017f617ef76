"""The plan against a real process, and through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def _ninestory(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NINESTORY_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "ninestory", *arguments], capture_output=True, text=True, env=environment
    )


@pytest.mark.starter
@pytest.mark.slow
def test_the_predicted_peak_of_the_starter_is_near_the_measured_one(tmp_path: Path, repository: Path) -> None:
    """Memory, not time: the figures repeat. benchmarks/plan_error.py holds the longer table."""
    script = repository / "benchmarks" / "plan_error.py"
    environment = {**os.environ, "NINESTORY_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script), '["", 256, 2, 0]'], capture_output=True, text=True, env=environment
    )
    row = json.loads(done.stdout.splitlines()[-1])
    assert abs(row["total"] / row["VmHWM"] - 1) < 0.15, row


def test_a_catalogue_name_that_is_not_installed_can_be_planned(tmp_path: Path) -> None:
    done = _ninestory("plan", "vicuna", "--context", "2048", "--concurrency", "2", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["plans"]
    for row in answer["plans"]:
        parts = ("process_bytes", "weight_bytes", "cache_bytes", "activation_bytes", "optimizer_bytes")
        assert row["total_bytes"] == sum(row[part] for part in parts)
        assert row["fits"] == (row["total_bytes"] <= row["available_bytes"])
        assert (row["context"], row["slots"]) == (2048, 2)


def test_what_does_not_fit_says_so_with_exit_code_8_and_a_cure(tmp_path: Path) -> None:
    done = _ninestory("plan", "vicuna", "--context", "100000000", home=tmp_path)
    assert done.returncode == 8, done.stdout + done.stderr
    assert "are free" in done.stderr + done.stdout


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    done = _ninestory("plan", "vicunna", home=tmp_path)
    assert done.returncode == 3
    assert "vicuna" in done.stderr
