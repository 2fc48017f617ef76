"""`ninestory chat --docs FOLDER`: GPT4All's LocalDocs on the command line, with the starter models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.test_cli import run
from tests.e2e.test_cli_chat import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.starter]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "pump.md").write_text("# The pump\n\nThe pump is greased every 40 hours with the red grease.\n")
    (folder / "离心泵.md").write_text("# 保养\n\n水泵每 40 小时加一次红色润滑脂。\n", encoding="utf-8")
    return folder


def test_a_conversation_over_a_folder_names_its_sources(home: Path, folder: Path) -> None:
    chat = Terminal(home, "--docs", str(folder), "--max-tokens", "16", "--temperature", "0", "--context", "1024")
    chat.until("2 passages")
    chat.until("> ")
    chat.say("How often is the pump greased?")
    chat.until(r"\[1\] pump.md")
    chat.until("> ")
    chat.say("水泵多久加一次润滑脂？")  # the starter speaks English alone: the document is quoted
    chat.until("每 40 小时")
    chat.until("离心泵.md")
    chat.until("> ")
    chat.say("/exit")
    assert chat.process.wait(60) == 0


def test_one_question_in_a_pipe_as_json_and_what_cannot_stand_together(home: Path, folder: Path) -> None:
    flags = ("--docs", str(folder), "--max-tokens", "16", "--temperature", "0", "--context", "1024", "--json")
    answer = json.loads(run(home, "chat", *flags, given="Which grease is for the pump?").stdout)
    assert answer["answer"] and answer["sources"][0]["filename" if "filename" in answer["sources"][0] else "file"]
    refused = run(home, "chat", "--docs", str(folder), "--kb", "manuals", "-p", "x", check=False)
    assert refused.returncode == 2 and "--docs cannot stand beside --kb" in refused.stderr
    missing = run(home, "chat", "--docs", str(home / "nowhere"), "-p", "x", check=False)
    assert missing.returncode == 3 and "is no folder" in missing.stderr
