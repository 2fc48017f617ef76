"""What a kill leaves behind is removed by whoever works in the same place next, and no parser outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ninestory.core.leftovers import sweep, temporary_name
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, ingest
from ninestory.floors.retrieval.knowledge_base import create, remove_base
from ninestory.models.convert.bert_onnx import made_once
from tests.hashing_engine import HashingEngine


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def left_by(process: int, folder: Path, kind: str) -> Path:
    path = folder / f".{kind}-{process}-{'0' * 16}"
    path.mkdir(parents=True)
    (path / "part").write_text("half", encoding="utf-8")
    return path


def test_only_what_the_dead_left_is_swept(tmp_path: Path, dead: int) -> None:
    gone = [left_by(dead, tmp_path, "new"), tmp_path / f".file-1.{dead}.part", tmp_path / f".page-{dead}-{'0' * 16}"]
    kept = [
        tmp_path / temporary_name("new"),
        tmp_path / f".file-2.{os.getpid()}.part",
        tmp_path / ".hidden",
        tmp_path / "a",
    ]
    for path in (*gone[1:], *kept):
        path.write_text("text", encoding="utf-8")
    (tmp_path / f".link-{dead}-{'1' * 16}").symlink_to(tmp_path / "a")  # the link goes, not what it leads to
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_each_place_is_swept_by_the_next_who_works_there(tmp_path: Path, dead: int) -> None:
    home = Home(tmp_path / "home")
    unfinished = left_by(dead, home.kb, "new")
    base = create(home, "notes", model="test:hashing")
    assert not unfinished.exists()

    (tmp_path / "a.md").write_text("# Apples\nApples are red.\n", encoding="utf-8")
    add_paths(base, [tmp_path / "a.md"], IngestReport())
    copy = base.documents / f".file-1.{dead}.part"
    copy.write_text("half", encoding="utf-8")
    ingest(base, Embedder(HashingEngine()), Silent())
    assert not copy.exists() and len(list(base.documents.iterdir())) == 1

    unremoved = left_by(dead, home.kb, "gone")
    remove_base(base)
    assert not unremoved.exists() and list(home.kb.iterdir()) == []

    unconverted = left_by(dead, home.cache / "onnx", "making")
    made_once(home.cache / "onnx" / "model", lambda made: (made / "ninestory.json").write_text("{}") and None)
    assert not unconverted.exists()


_PARENT = """
import subprocess, sys
child = "import time\\nfrom ninestory.floors.retrieval.parsing import isolated\\n" \\
        "isolated._answer = lambda *_: time.sleep(60)\\nisolated.main()"
process = subprocess.Popen([sys.executable, "-c", child, str(1 << 30)], stdin=subprocess.PIPE)
process.stdin.write(b'["part", "a.txt", "a.txt", 0]\\n')
process.stdin.flush()
print(process.pid, flush=True)
process.wait()
"""


@pytest.mark.slow
def test_a_parser_in_the_middle_of_a_file_ends_with_its_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    while b"isolated" not in Path(f"/proc/{child}/cmdline").read_bytes() or _threads(child) < 2:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    try:
        assert not Path(f"/proc/{child}").exists()
    finally:
        if Path(f"/proc/{child}").exists():
            os.kill(child, signal.SIGKILL)


def _threads(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))
