"""A path that a user gives as data is a regular file, or refused at once: a pipe waits for ever, a device never ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ninestory.cli.evaluate import perplexity
from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.core.paths import Home
from ninestory.core.regular_file import open_regular
from ninestory.evaluation import ceval, judge
from ninestory.floors.chat import prompt_library
from ninestory.floors.finetuning import data_files, self_instruct
from ninestory.floors.recipes import load_recipe
from ninestory.floors.retrieval import evaluate
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, sync_folder
from ninestory.floors.retrieval.knowledge_base import create


@pytest.fixture(autouse=True)
def no_hanging() -> Iterator[None]:
    def hung(*_: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(tmp_path: Path) -> Callable[[str], Path]:
    def made(name: str) -> Path:
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    return made


def test_only_regular_files_are_opened(
    tmp_path: Path, pipe: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        server.bind("socket")
        for path in (pipe("pipe"), Path("/dev/zero"), Path("/dev/null"), tmp_path, tmp_path / "socket"):
            with pytest.raises(InvalidRequest, match="expected a regular file"):
                open_regular(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "a.txt")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"text"


def test_a_pipe_is_no_document(tmp_path: Path, pipe: Callable[[str], Path]) -> None:
    base = create(Home(tmp_path / "home"), "notes", model="test:hashing")
    with pytest.raises(InvalidRequest, match="regular file"):
        add_paths(base, [pipe("a.md")], IngestReport())
    report = IngestReport()
    sync_folder(base, tmp_path, report)
    assert base.files() == [] and not list(base.folder.glob("documents/*"))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.jsonl", lambda path: list(data_files.read_rows(path))),
        ("a.yaml", load_recipe),
        ("seeds.jsonl", lambda path: self_instruct.read_seeds(path, "en")),
        ("cases.jsonl", evaluate.read_questions),
        ("questions.jsonl", lambda path: judge.load_questions(str(path))),
        ("prompts.toml", lambda path: prompt_library.find_prompt(str(path))),
        ("a.csv", ceval.read_items),
        ("text.txt", lambda path: perplexity("starter:smollm2-135m-instruct", path)),
    ],
    ids=["tune data", "recipe", "seed tasks", "cases", "judge", "prompts", "exam", "perplexity"],
)
def test_a_pipe_is_no_data(pipe: Callable[[str], Path], name: str, read: Callable[[Path], Any]) -> None:
    with pytest.raises((InvalidRequest, NotFound)):
        read(pipe(name))


@pytest.mark.slow
def test_the_command_refuses_a_pipe(tmp_path: Path, pipe: Callable[[str], Path]) -> None:
    environment = {**os.environ, "NINESTORY_HOME": str(tmp_path / "home")}
    create(Home(tmp_path / "home"), "notes").close()
    command = [sys.executable, "-m", "ninestory", "kb", "add", "notes", str(pipe("a.md"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2 and "regular file" in " ".join(done.stderr.split())
