"""`ninestory chat --docs FOLDER`: GPT4All's LocalDocs on the command line, with the starter models."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ninestory.cli.chat.chat import app
from ninestory.cli.retrieval.kb import app as kb_app
from ninestory.core.errors import Conflict, NinestoryError
from tests.conftest import share_converted
from tests.e2e.api_server import ApiServer
from tests.e2e.test_cli import run
from tests.e2e.test_cli_chat import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.starter]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "pump.md").write_text("# The pump\n\nThe pump is greased every 40 hours with the red grease.\n")
    (folder / "离心泵.md").write_text("# 保养\n\n水泵每 40 小时加一次红色润滑脂。\n", encoding="utf-8")
    return folder


def test_a_conversation_over_a_folder_names_its_sources(tmp_path: Path, folder: Path, converted: Path) -> None:
    share_converted(tmp_path, converted)
    chat = Terminal(tmp_path, "--docs", str(folder), "--max-tokens", "16", "--temperature", "0", "--context", "1024")
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


def test_what_cannot_stand_together_is_refused_by_its_flag(folder: Path, tmp_path: Path) -> None:
    for flags, words in (
        (("--docs", str(folder), "--kb", "manuals"), "--docs cannot stand beside --kb"),
        (("--kb", "manuals", "--system", "Be brief."), "--system cannot stand beside documents"),
        (("--docs", str(tmp_path / "nowhere")), "is no folder"),
    ):
        error = CliRunner().invoke(app, [*flags, "--prompt", "x"]).exception
        assert isinstance(error, NinestoryError) and words in error.message


def test_a_running_server_answers_from_the_folder(folder: Path, api_server: ApiServer) -> None:
    flags = ("--docs", str(folder), "--server", api_server.url, "--max-tokens", "16")
    answer = run(api_server.home, "chat", *flags, given="水泵多久加一次润滑脂？").stdout
    assert "每 40 小时" in answer and "离心泵.md" in answer
    error = CliRunner().invoke(app, [*flags, "--seed", "1", "--prompt", "x"]).exception
    assert isinstance(error, NinestoryError) and "without --seed" in error.message


def test_the_knowledge_bases_of_a_running_server(folder: Path, api_server: ApiServer, tmp_path: Path) -> None:
    def kb(*arguments: str) -> str:
        result = CliRunner().invoke(kb_app, [*arguments, "--server", api_server.url])
        if result.exception:
            raise result.exception
        return result.output

    shutil.copytree(folder, tmp_path / "docs")
    (tmp_path / "docs" / "broken.pdf").write_bytes(b"%PDF-broken")
    assert "multilingual-e5-small" in kb("create", "pumps")
    with pytest.raises(Conflict, match="already"):
        kb("create", "pumps")
    added = kb("add", "pumps", str(tmp_path / "docs"), "--attribute", "kind=manual")
    assert "indexed" in added and "failed: broken.pdf" in added
    assert re.search(r"pumps +vs_\w+ +\d+ +1 ", kb("ls"))
    assert "离心泵.md" in kb("show", "pumps") and "每 40 小时" in kb("show", "pumps", "离心泵.md")
    found = kb(
        "search", "pumps", "水泵多久加一次润滑脂？", "--limit", "1", "--only", "kind=manual", "--neighbours", "1"
    )
    assert "\n[1] 离心泵.md" in found and "每 40 小时" in found
    kb("rm", "pumps", "离心泵.md")
    assert "离心泵.md" not in kb("show", "pumps")
    for refused, words in (
        (("add", "pumps", "http://example.org/a.html"), "an address"),
        (("search", "pumps", "x", "--mode", "text"), "--mode"),
        (("show", "nothing"), "no knowledge base"),
        (("add", "pumps", str(tmp_path / "nowhere")), "does not exist"),
    ):
        with pytest.raises(NinestoryError, match=words):
            kb(*refused)
    kb("rm", "pumps")
    assert "pumps" not in kb("ls")
