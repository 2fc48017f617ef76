"""What a kill leaves behind is removed by whoever works in the same place next, and no parser outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ninestory.core.paths import Home, part_of, sweep_parts
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.archive import export_base, import_base
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, ingest
from ninestory.floors.retrieval.knowledge_base import create
from tests.hashing_engine import HashingEngine


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_only_what_the_dead_left_is_swept(tmp_path: Path, dead: int) -> None:
    kept = [part_of(tmp_path / "file-2"), tmp_path / ".hidden", tmp_path / "a", tmp_path / "b.part"]
    for path in (*kept, tmp_path / f".file-1.{dead}.part"):
        path.write_text("text", encoding="utf-8")
    (tmp_path / f".link.{dead}.part").symlink_to(tmp_path / "a")  # the link goes, not what it leads to
    sweep_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_each_place_is_swept_by_the_next_who_works_there(tmp_path: Path, dead: int) -> None:
    home = Home(tmp_path / "home")
    undeleted = home.kb / f".gone-vs_{'0' * 24}"
    unpacked = home.kb / ".import-abcdefgh"
    for folder in (undeleted, unpacked):
        (folder / "documents").mkdir(parents=True)
    base = create(home, "notes", model="test:hashing")
    assert not undeleted.exists()

    (tmp_path / "a.md").write_text("# Apples\nApples are red.\n", encoding="utf-8")
    add_paths(base, [tmp_path / "a.md"], IngestReport())
    copy = base.documents / f".file-1.{dead}.part"
    copy.write_text("half", encoding="utf-8")
    ingest(base, Embedder(HashingEngine()), Silent())
    assert not copy.exists() and len(list(base.documents.iterdir())) == 1

    export_base(base, tmp_path / "notes.tar.gz", Silent())
    import_base(home, tmp_path / "notes.tar.gz")
    assert not unpacked.exists() and not list(home.kb.glob(".*"))


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
