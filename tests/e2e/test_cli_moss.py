"""MOSS with plugins on the command line: a small checkpoint of its layout, and the caller's own programs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from ninestory.cli.chat.moss_conversation import plugin
from ninestory.core.errors import InvalidRequest, NinestoryError
from tests.e2e.api_server import MODEL
from tests.e2e.test_cli import run
from tests.tiny_checkpoints import FAMILIES

pytestmark = [pytest.mark.slow, pytest.mark.torch]


def test_a_question_goes_through_both_passes(tmp_path: Path) -> None:
    path = FAMILIES["moss"](tmp_path / "model")
    arguments = ("--plugin", "calculator", "--plugin", "solver", "--max-tokens", "4", "--temperature", "0")
    done = run(tmp_path, "chat", str(path), "--prompt", "2 + 2?", *arguments, "--context", "1024")
    assert done.stdout.strip()
    wrong = run(tmp_path, "chat", str(path), "--prompt", "x", "--plugin", "rocket", "--context", "1024", check=False)
    assert wrong.returncode == 2 and "rocket" in wrong.stderr


@pytest.mark.starter
def test_plugins_are_mosss_alone(tmp_path: Path) -> None:
    refused = run(tmp_path, "chat", MODEL, "--prompt", "x", "--plugin", "calculator", check=False)
    assert refused.returncode == 2 and "MOSS" in refused.stderr


def test_a_program_is_given_the_words_on_its_input_and_no_shell(tmp_path: Path) -> None:
    script = tmp_path / "search.py"
    script.write_text("import sys; print(sys.stdin.read().upper()); print(len(sys.argv))")
    tool = plugin(f"search={sys.executable} {script}")
    assert tool.run({"query": "tea; touch canary"}) == "TEA; TOUCH CANARY\n1\n"
    with pytest.raises(NinestoryError, match="failed"):
        plugin("draw=/nonexistent").run({"description": "x"})
    for text in ("search", "search=", "calculator=x", "rocket"):
        with pytest.raises(InvalidRequest):
            plugin(text)
