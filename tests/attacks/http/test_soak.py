"""A small soak: mixed requests by 16 clients, of which some vanish. The long one is benchmarks/serving_mixed.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.starter
def test_memory_and_descriptors_stay_flat(repository: Path) -> None:
    script = repository / "benchmarks" / "serving_mixed.py"
    command = [sys.executable, str(script), "--requests", "160", "--stores", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    first, last = figures["after_a_quarter"], figures["at_the_end"]
    assert last["gateway_descriptors"] <= first["gateway_descriptors"], figures
    assert last["processes_descriptors"] <= first["processes_descriptors"], figures
    assert last["gateway_mb"] - first["gateway_mb"] < 12, figures
    seen = figures["seen"]
    assert {"200", "404", "431", "vanished"} <= set(seen), seen
    assert not [status for status in seen if status.startswith("5")], seen
