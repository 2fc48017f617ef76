"""What import-linter cannot see: who knows the default home."""

from __future__ import annotations

import ast
from pathlib import Path

import ninestory

ROOT = Path(ninestory.__file__).parent
WAYS_IN = ("cli", "serving", "library.py")  # they are told where the home is; all below are handed one


def names_default_home(source: str) -> list[int]:
    """Lines that speak of `Home.default`."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr == "default"
        and isinstance(node.value, ast.Name)
        and node.value.id == "Home"
    ]


def test_only_the_ways_in_know_the_default_home() -> None:
    assert names_default_home("x = Home.default()\ny = other.default()") == [1]
    found = {
        str(file.relative_to(ROOT)): lines
        for file in ROOT.rglob("*.py")
        if file.relative_to(ROOT).parts[0] not in WAYS_IN and (lines := names_default_home(file.read_text("utf-8")))
    }
    assert found == {}
