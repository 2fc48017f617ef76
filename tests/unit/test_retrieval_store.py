"""A knowledge base from outside: ingest, sync, search, faults. The embedding engine is tests/hashing_engine.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ninestory.core.errors import Cancelled, Conflict, NotFound
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval import knowledge_base
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.hits import Hit, SearchOptions, merged
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, changed_files, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, base_ids, create, each_base, open_base, remove_base
from ninestory.floors.retrieval.search import search
from ninestory.floors.retrieval.table import ChunkReader
from tests import documents
from tests.hashing_engine import HashingEngine

MODEL = "test:hashing"
EVERYTHING = SearchOptions()


@pytest.fixture
def base(tmp_path: Path) -> KnowledgeBase:
    return create(Home(tmp_path / "home"), "notes", model=MODEL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "apples.md").write_text("# Fruit\n\n## Apples\n\nApples are red and sweet.\n", encoding="utf-8")
    (folder / "sub" / "boats.txt").write_text("Boats float on water. A boat has a hull.", encoding="utf-8")
    (folder / "中文.txt").write_text("第一章 茶\n绿茶产自杭州，味道清香。", encoding="gb18030")
    return folder


def sync(base: KnowledgeBase, folder: Path, engine: HashingEngine | None = None) -> IngestReport:
    report = IngestReport()
    sync_folder(base, folder, report)
    return ingest(base, Embedder(engine or HashingEngine()), Silent(), report)


def find(base: KnowledgeBase, question: str, options: SearchOptions = EVERYTHING) -> list[Hit]:
    return search(ChunkReader(base), question, Embedder(HashingEngine()).query(question), options)


def test_found_with_place_and_reason(base: KnowledgeBase, folder: Path) -> None:
    report = sync(base, folder)
    assert (report.indexed, report.failed) == (3, [])
    best = find(base, "sweet apples")[0]
    assert (best.file, best.text, best.context) == ("apples.md", "Apples are red and sweet.", "Fruit > Apples")
    assert (best.vector_rank, best.text_rank, best.score) == (1, 1, 1.0)
    best = find(base, "杭州的绿茶")[0]
    assert best.file == "中文.txt" and best.text[0:2] == "绿茶" and best.text_rank == 1


@pytest.mark.parametrize(
    "question", ['"sweet apples"', "'sweet apples'", 'apples AND (sweet OR "red', "apples^2 +sweet -boats*"]
)
def test_marks_in_a_question_are_no_query_language(base: KnowledgeBase, folder: Path, question: str) -> None:
    sync(base, folder)
    assert find(base, question)[0].text_rank == 1


def test_only_what_changed_is_read_and_embedded_again(base: KnowledgeBase, folder: Path) -> None:
    sync(base, folder)
    assert changed_files(base, folder) == []
    engine = HashingEngine()
    (folder / "new.txt").write_text("Clouds are white.", encoding="utf-8")
    (folder / "sub" / "boats.txt").unlink()
    os.utime(folder / "apples.md", (1, 1))
    assert changed_files(base, folder) == ["apples.md", "new.txt", "sub/boats.txt"]
    report = sync(base, folder, engine)
    assert (report.indexed, report.unchanged, report.removed, report.embedded) == (1, 2, 1, 1)
    assert find(base, "boats float")[0].file != "sub/boats.txt"
    (folder / "new.txt").rename(folder / "renamed.txt")
    report = sync(base, folder)
    assert (report.indexed, report.removed) == (1, 1)


def test_one_bad_file_does_not_stop_the_others(base: KnowledgeBase, folder: Path, tmp_path: Path) -> None:
    documents.pdf(folder / "locked.pdf", [["x"]], encrypted=True)
    (folder / "empty.md").touch()
    (folder / "broken.docx").write_bytes(b"PK\x03\x04 nothing")
    (folder / "program.exe").write_bytes(b"MZ")
    secret = tmp_path / "secret.txt"
    secret.write_text("outside", encoding="utf-8")
    (folder / "link.txt").symlink_to(secret)
    report = sync(base, folder)
    assert report.indexed == 3 and report.skipped == ["program.exe"]
    assert {failure["file"]: failure["code"] for failure in report.failed} == {
        "locked.pdf": "encrypted_document",
        "empty.md": "empty_document",
        "broken.docx": "damaged_archive",
        "link.txt": "path_outside",
    }
    assert {f.name for f in base.files("failed")} == {"locked.pdf", "empty.md", "broken.docx"}
    assert all(hit.text != "outside" for hit in find(base, "outside"))


def test_added_files_are_copied_and_replaced_by_name(base: KnowledgeBase, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    for text in ("First version.", "Second version."):
        path.write_text(text, encoding="utf-8")
        report = IngestReport()
        add_paths(base, [path], report)
        ingest(base, Embedder(HashingEngine()), Silent(), report)
    path.unlink()
    assert [hit.text for hit in find(base, "version")] == ["Second version."]
    assert len(base.files()) == 1 and base.files()[0].path.is_file()
    base.remove_file(base.files()[0].id)
    assert find(base, "version") == []  # at once, before any ingest
    assert ingest(base, Embedder(HashingEngine()), Silent()).removed == 1
    assert not any(base.documents.iterdir())


def test_a_knowledge_base_never_mixes_two_models(base: KnowledgeBase, folder: Path) -> None:
    sync(base, folder)
    for other in (HashingEngine("test:other"), HashingEngine(MODEL, salt=7)):
        with pytest.raises(Conflict) as caught:
            sync(base, folder, other)
        assert caught.value.code == "other_embedding_model"
    other = HashingEngine("test:other", salt=7)
    base.begin_table("test:other")
    assert find(base, "sweet apples")[0].file == "apples.md"  # the old table answers until the new one is whole
    assert ingest(base, Embedder(other), Silent()).indexed == 3
    assert base.published is not None and base.published.model == "test:other"
    assert [path.name for path in base.folder.glob("chunks-*")] == ["chunks-2"]


def test_filters_neighbours_and_several_bases(base: KnowledgeBase, folder: Path, tmp_path: Path) -> None:
    long = "\n\n".join(f"Paragraph {n} speaks of topic{n} and says nothing else of note." for n in range(60))
    (folder / "long.txt").write_text(long, encoding="utf-8")
    sync(base, folder)
    boats = next(f.id for f in base.files() if f.name == "sub/boats.txt")
    assert {hit.file for hit in find(base, "apples", SearchOptions(file_ids=(boats,)))} == {"sub/boats.txt"}
    assert find(base, "apples", SearchOptions(file_ids=())) == []
    alone = find(base, "topic30", SearchOptions(limit=1, mode="text"))[0]
    wide = find(base, "topic30", SearchOptions(limit=1, mode="text", neighbours=1))[0]
    assert alone.text in wide.text and wide.start < alone.start and wide.end > alone.end
    assert "".join(wide.text.split()) == "".join(long[wide.start : wide.end].split())
    other = create(Home(tmp_path / "home"), "other", model=MODEL)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("sweet apples sweet apples", encoding="utf-8")
    sync(other, tmp_path / "more")
    both = merged([find(base, "sweet apples"), find(other, "sweet apples")], 2)
    assert [hit.base for hit in both] == [other.id, base.id]


def test_names_and_ids(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    first, second = create(home, "same", model=MODEL), create(home, "same", model=MODEL)
    assert base_ids(home) == [first.id, second.id]
    with pytest.raises(Conflict):
        open_base(home, "same")
    assert open_base(home, second.id).id == second.id
    remove_base(second)
    assert open_base(home, "same").id == first.id
    for name in ("../../etc", "vs_" + "0" * 24, "x" * 5000):
        with pytest.raises(NotFound):
            open_base(home, name)


def test_an_empty_knowledge_base_answers_nothing(base: KnowledgeBase) -> None:
    assert find(base, "anything") == []
    assert ingest(base, Embedder(HashingEngine()), Silent()).indexed == 0
    assert find(base, "anything") == [] and find(base, "  ") == []


class Stops(Silent):
    """Cancels after some files."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        if done >= self._after:
            raise Cancelled("enough")


def test_a_cancelled_ingest_goes_on_where_it_stopped(base: KnowledgeBase, folder: Path) -> None:
    report = IngestReport()
    sync_folder(base, folder, report)
    with pytest.raises(Cancelled):
        ingest(base, Embedder(HashingEngine()), Stops(2), report)
    assert len(base.files("pending")) == 1 and find(base, "apples") == []
    assert ingest(base, Embedder(HashingEngine()), Silent()).indexed == 1
    assert find(base, "sweet apples")[0].file == "apples.md"


_KILLED = """
import sys, time
from pathlib import Path
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
from tests.hashing_engine import HashingEngine

class Tells(Silent):
    def checkpoint(self, state):
        print(state["done"], flush=True)
        time.sleep(0.05)

base = KnowledgeBase(Path(sys.argv[1]))
sync_folder(base, Path(sys.argv[2]), IngestReport())
ingest(base, Embedder(HashingEngine()), Tells())
"""


@pytest.mark.slow
def test_kill_9_in_mid_ingest_loses_nothing(base: KnowledgeBase, folder: Path) -> None:
    sync(base, folder)
    for n in range(30):
        (folder / f"extra{n}.txt").write_text(f"Extra number {n} is about word{n}.", encoding="utf-8")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _KILLED, str(base.folder), str(folder)]
    for lines in (3, 5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": "src"})
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert {hit.file for hit in find(base, "number word2")} <= {"apples.md", "sub/boats.txt", "中文.txt"}
    assert 0 < len(base.files("pending")) < 30
    sync(base, folder)
    assert len(base.files("indexed")) == 33
    reader = ChunkReader(base)
    reader.refresh()
    names = reader.all_rows(["file"])["file"].to_pylist()
    assert sorted(names) == sorted(f.name for f in base.files())  # one passage each, none twice


def test_two_writers_take_turns(base: KnowledgeBase, folder: Path) -> None:
    sync_folder(base, folder, IngestReport())
    reports = []

    def write() -> None:
        own = KnowledgeBase(base.folder)
        reports.append(ingest(own, Embedder(HashingEngine()), Silent()))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(report.indexed for report in reports) == [0, 3]


def test_readers_stay_on_what_is_published_while_an_ingest_writes(base: KnowledgeBase, folder: Path) -> None:
    sync(base, folder)
    reader = ChunkReader(base)
    vector = Embedder(HashingEngine()).query("word")
    seen = []

    class Looks(Silent):
        def checkpoint(self, state: dict[str, object]) -> None:
            seen.append(len(search(reader, "word", vector, SearchOptions(limit=50))))

    for n in range(5):
        (folder / f"w{n}.txt").write_text(f"word {n}", encoding="utf-8")
    sync_folder(base, folder, IngestReport())
    ingest(base, Embedder(HashingEngine()), Looks())
    assert seen == [3] * 5
    assert len(search(reader, "word", vector, SearchOptions(limit=50))) == 8


def test_a_new_base_is_listed_whole_or_not_at_all(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    create(home, "a", model=MODEL)
    (home.kb / ".new-vs_" / "x").mkdir(parents=True)
    (home.kb / ("vs_" + "1" * 24)).mkdir()
    assert [base.name for base in each_base(home)] == ["a"]
    assert knowledge_base.DEFAULT_MODEL.startswith("starter:")
    assert time.time() - next(each_base(home)).get("created_at") < 60


def test_a_large_base_is_indexed_and_answers_as_an_exact_scan_does(
    base: KnowledgeBase, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index knows vectors in few bits; what it finds is judged by the vectors themselves."""
    monkeypatch.setattr("ninestory.floors.retrieval.table.INDEX_FROM_ROWS", 300)
    for n in range(40):
        lines = [f"Item {n * 10 + m} tells of word{n * 10 + m} and word{(n * 7 + m) % 50}." for m in range(10)]
        (folder / f"{n}.md").write_text("\n\n".join(f"# Part {i}\n\n{x}" for i, x in enumerate(lines)), "utf-8")
    sync(base, folder)
    (folder / "later.txt").write_text("Cranes lift word7 high.", encoding="utf-8")
    sync(base, folder)
    reader = ChunkReader(base)
    reader.refresh()
    rows = reader.all_rows(["id", "vector"]).to_pylist()
    assert len(rows) > 400
    for question in ("tells of word123", "Cranes lift word7", "item 17"):
        vector = Embedder(HashingEngine()).query(question)
        exact = sorted((float(np.dot(vector, np.array(row["vector"]))) for row in rows), reverse=True)[:5]
        near = reader.nearest(vector, 5, None)
        assert [row["cosine"] for row in near] == pytest.approx(exact, abs=1e-5)
    assert find(base, "Cranes lift")[0].file == "later.txt"
