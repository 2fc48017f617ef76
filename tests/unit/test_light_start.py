"""Light start: heavy modules are imported only by what needs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ninestory.cli.app import VERBS

HEAVY = ("torch", "transformers", "diffusers", "pandas", "lancedb", "onnxruntime", "xllamacpp", "openai", "numpy")


def imported_by(program: str) -> set[str]:
    code = f"import sys\n{program}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_import_ninestory_is_light() -> None:
    assert not imported_by("import ninestory") & {*HEAVY, "pydantic", "fastapi", "typer"}


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_light(verb: str) -> None:
    arguments = [verb, "--help"] if verb else ["--help"]
    program = f"""
sys.argv = ["ninestory", *{arguments!r}]
from ninestory.cli.app import app
try:
    app()
except SystemExit as end:
    assert not end.code
"""
    loaded = imported_by(program)
    assert not loaded & set(HEAVY)


def test_the_gateway_is_light() -> None:
    assert not imported_by("import ninestory.serving.run, ninestory.serving.gateway") & set(HEAVY)
