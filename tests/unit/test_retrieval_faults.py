"""What goes wrong from outside: a full disk, names that lead out, gone models, huge texts cancelled and resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ninestory.core.errors import Cancelled, NotFound, TooLarge
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval import parsing
from ninestory.floors.retrieval.document import Document
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.hits import Hit, Mode, SearchOptions
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, ingest, sync_folder
from ninestory.floors.retrieval.jobs import run_ingest
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, create
from ninestory.floors.retrieval.parsing import text
from ninestory.floors.retrieval.parsing.isolated import ParserProcess
from ninestory.floors.retrieval.search import search
from ninestory.floors.retrieval.table import ChunkReader
from tests import documents
from tests.hashing_engine import HashingEngine
from tests.job_context import local_context

MODEL = "test:hashing"


@pytest.fixture
def base(tmp_path: Path) -> KnowledgeBase:
    base = create(Home(tmp_path / "home"), "notes", model=MODEL)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "apples.md").write_text("# Fruit\n\nApples are red and sweet.\n", encoding="utf-8")
    sync_folder(base, tmp_path / "docs", IngestReport())
    ingest(base, Embedder(HashingEngine()), Silent())
    return base


def find(base: KnowledgeBase, question: str, limit: int = 8, mode: Mode = "hybrid") -> list[Hit]:
    vector = Embedder(HashingEngine()).query(question)
    return search(ChunkReader(base), question, vector, SearchOptions(limit=limit, mode=mode))


_FULL = """
import resource, signal, sys
from pathlib import Path
from ninestory.core.errors import DiskFull
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
from tests.hashing_engine import HashingEngine

base = KnowledgeBase(Path(sys.argv[1]))
sync_folder(base, Path(sys.argv[2]), IngestReport())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    ingest(base, Embedder(HashingEngine()), Silent())
except DiskFull as error:
    print("full:", error.message)
"""


def test_a_full_disk_is_named_and_the_last_good_version_answers(base: KnowledgeBase, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails in the same place."""
    (tmp_path / "docs" / "long.txt").write_text(
        "\n\n".join(f"Paragraph {n} tells of word{n} and nothing else." for n in range(4000)), encoding="utf-8"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _FULL, str(base.folder), str(tmp_path / "docs")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": "src"}, timeout=120
    )
    assert done.stdout.startswith("full: No room left"), done.stdout + done.stderr
    assert [hit.file for hit in find(base, "sweet apples")] == ["apples.md"]
    assert [f.name for f in base.files("pending")] == ["long.txt"]
    assert ingest(base, Embedder(HashingEngine()), Silent()).indexed == 1
    assert find(base, "word77", 1, "text")[0].file == "long.txt"


def test_the_rest_of_a_folder_goes_in(base: KnowledgeBase, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    documents.pdf(
        docs / "long.pdf", [[f"Page {n} speaks of topic{n}. " + "It says no more. " * 30] for n in range(500)]
    )
    documents.pdf(docs / "locked.pdf", [["x"]], encrypted=True)
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    (docs / "empty.txt").touch()
    documents.zipped(docs / "bomb.docx", {"word/document.xml": " " * (300 << 20)})
    (docs / "out.txt").symlink_to("/etc/hostname")
    report = IngestReport()
    sync_folder(base, docs, report)
    ingest(base, Embedder(HashingEngine()), Silent(), report)
    assert report.indexed == 1 and {failure["file"]: failure["code"] for failure in report.failed} == {
        "locked.pdf": "encrypted_document",
        "broken.pdf": "damaged_pdf",
        "empty.txt": "empty_document",
        "bomb.docx": "zip_bomb",
        "out.txt": "path_outside",
    }
    assert find(base, "topic432", 1, "text")[0].page in (432, 433)  # a passage may begin on the page before


def test_names_that_lead_out_stay_names(base: KnowledgeBase, tmp_path: Path) -> None:
    """An upload may be called anything; the copy lies under its id."""
    (tmp_path / "plain").write_text("Boats float on water.", encoding="utf-8")
    for name in ("../../evil.txt", "/etc/cron.d/evil.txt", "..\\evil.txt"):
        base.register(name, tmp_path / "plain")
    ingest(base, Embedder(HashingEngine()), Silent())
    assert {hit.file for hit in find(base, "boats float")} >= {"../../evil.txt"}
    assert not list(tmp_path.rglob("evil.txt"))
    for file in base.files():
        if "evil" in file.name:
            base.remove_file(file.id)
    ingest(base, Embedder(HashingEngine()), Silent())
    assert (tmp_path / "plain").exists()


def test_a_model_that_is_gone_is_named_and_nothing_is_lost(base: KnowledgeBase, tmp_path: Path) -> None:
    base.put(model=str(tmp_path / "gone"))
    (tmp_path / "more.txt").write_text("Boats float.", encoding="utf-8")
    add_paths(base, [tmp_path / "more.txt"], IngestReport())
    from ninestory.core.config import RuntimeSettings

    home = Home(tmp_path / "home")
    with local_context(home, RuntimeSettings()) as context, pytest.raises(NotFound, match="gone"):
        run_ingest({"knowledge_base": base.id}, context)
    base.put(model=MODEL)
    assert find(base, "sweet apples", 1)[0].file == "apples.md" and len(base.files("pending")) == 1


class _StopsInside(Silent):
    """Cancels at the n-th look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        self.looks -= 1
        if self.looks < 0:
            raise Cancelled("enough")


class _Here(ParserProcess):
    """The parsing process's own function, called here: its bounds can be made small."""

    def parse_part(
        self, path: Path, name: str, position: int, look: Callable[[], None] | None = None
    ) -> tuple[Document, int | None]:
        return parsing.parse_part(path, name, position)


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_a_large_text_is_read_in_parts_cancelled_and_resumed(
    base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setattr(text, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(text, "PART_BYTES", 4001)  # an odd number: no part ends where a character does by itself
    monkeypatch.setattr(text, "_SAMPLE_BYTES", 1001)
    monkeypatch.setattr("ninestory.floors.retrieval.ingest.ParserProcess", _Here)
    whole = "\n\n".join(f"第{n}段落讲述茶叶的历史。Paragraph {n} tells of word{n} only." for n in range(1000))
    (tmp_path / "docs" / "huge.txt").write_bytes(whole.encode(encoding))
    sync_folder(base, tmp_path / "docs", IngestReport())
    with pytest.raises(Cancelled):
        ingest(base, Embedder(HashingEngine()), _StopsInside(8))
    noted = base.get(f"part {base.files('pending')[0].id}")
    assert noted["position"] > 0 and noted["chunks"] > 0
    report = ingest(base, Embedder(HashingEngine()), Silent())
    file = next(f for f in base.files("indexed") if f.name == "huge.txt")
    assert report.indexed == 1 and base.get(f"part {file.id}") is None
    reader = ChunkReader(base)
    reader.refresh()
    rows = [r for r in reader.all_rows(["file", "ordinal", "text", "start"]).to_pylist() if r["file"] == "huge.txt"]
    assert sorted(row["ordinal"] for row in rows) == list(range(file.chunks))
    assert report.embedded < file.chunks  # what was written before the cancel stays
    assert all(f"word{n} " in " ".join(row["text"] for row in rows) for n in (0, 1, 499, 500, 998, 999))


def test_parts_of_the_parsing_process_go_on_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Apples are red and sweet.\n" * 700_000, encoding="utf-8")
    with ParserProcess() as parser:
        first, following = parser.parse_part(path, "a.txt", 0)
        assert following is not None and len(first.text) <= text.PART_BYTES
        last, end = parser.parse_part(path, "a.txt", path.stat().st_size - 1000)
    assert end is None and last.text.endswith("sweet.")


def test_a_plain_text_beyond_the_offsets_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(3 << 30)  # sparse: it takes no room
    with pytest.raises(TooLarge):
        parsing.parse_part(tmp_path / "a.txt", "a.txt", 0)
