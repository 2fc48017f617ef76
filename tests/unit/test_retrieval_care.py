"""Export, import, verify, evaluate: what keeps a knowledge base in good order."""

from __future__ import annotations

import functools
import http.server
import io
import tarfile
import threading
from pathlib import Path

import pytest

from ninestory.core import web
from ninestory.core.errors import Damaged, InvalidRequest, NinestoryError
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval import evaluate as evaluation
from ninestory.floors.retrieval.archive import export_base, import_base
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.hits import Hit, SearchOptions
from ninestory.floors.retrieval.ingest import IngestReport, add_page, add_paths, compact, ingest
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, base_ids, create
from ninestory.floors.retrieval.search import search
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.floors.retrieval.verify import verify_base
from tests.hashing_engine import HashingEngine


@pytest.fixture
def base(tmp_path: Path) -> KnowledgeBase:
    base = create(Home(tmp_path / "home"), "notes", model="test:hashing")
    (tmp_path / "a.md").write_text("# Apples\nApples are red.\n\n# Boats\nBoats float.\n", encoding="utf-8")
    report = IngestReport()
    add_paths(base, [tmp_path / "a.md"], report)
    ingest(base, Embedder(HashingEngine()), Silent(), report)
    return base


def find(base: KnowledgeBase, question: str, options: SearchOptions) -> list[Hit]:
    return search(ChunkReader(base), question, Embedder(HashingEngine()).query(question), options)


def test_what_is_exported_answers_elsewhere(base: KnowledgeBase, tmp_path: Path) -> None:
    export_base(base, tmp_path / "notes.tar.gz", Silent())
    other = import_base(Home(tmp_path / "other"), tmp_path / "notes.tar.gz", "copy")
    assert (other.name, other.model) == ("copy", "test:hashing") and other.id != base.id
    assert find(other, "red apples", SearchOptions(limit=1))[0].text == "Apples are red."
    assert other.files()[0].path.is_relative_to(other.folder) and verify_base(other) == []


def test_an_archive_that_leads_out_or_is_cut_leaves_nothing(base: KnowledgeBase, tmp_path: Path) -> None:
    export_base(base, tmp_path / "good.tar.gz", Silent())
    data = (tmp_path / "good.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "junk.tar.gz").write_bytes(b"junk")
    evil = tmp_path / "evil.tar.gz"
    for name in ("../kb.db", "documents/../../../x", "/etc/x"):
        with tarfile.open(evil, "w:gz") as archive:
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"data"))
        with pytest.raises(Damaged):
            import_base(Home(tmp_path / "other"), evil)
    with tarfile.open(evil, "w:gz") as archive:
        link = tarfile.TarInfo("documents/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    for path in (evil, tmp_path / "cut.tar.gz", tmp_path / "junk.tar.gz"):
        with pytest.raises(Damaged):
            import_base(Home(tmp_path / "other"), path)
    assert base_ids(Home(tmp_path / "other")) == [] and not (tmp_path / "x").exists()
    assert not list((tmp_path / "other" / "kb").iterdir())


def test_verify_names_the_fault(base: KnowledgeBase) -> None:
    assert verify_base(base) == []
    compact(base, Silent())
    assert verify_base(base) == []
    file = base.files()[0]
    file.path.write_text("changed", encoding="utf-8")
    assert verify_base(base) == ["a.md: its copy was changed."]
    base.mark(file.id, "indexed", chunks=5)
    assert "2 passages in the table, 5 were written" in verify_base(base)[1]
    for path in base.folder.glob("chunks-*/chunks.lance/data/*.lance"):
        path.write_bytes(b"x")
    assert any("damaged" in fault for fault in verify_base(KnowledgeBase(base.folder)))


def test_evaluation_counts_what_is_found(base: KnowledgeBase, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(
        '{"question": "red apples", "file": "a.md", "heading": "Apples"}\n'
        '{"question": "boats float", "file": "a.md", "text": "float"}\n'
        '{"question": "boats float", "file": "other.md"}\n\n{"question": "zzz"}\n',
        encoding="utf-8",
    )
    questions = evaluation.read_questions(path)
    scores = evaluation.evaluate(
        questions, lambda q, o: find(base, q, o), SearchOptions(limit=2), thresholds={"en": 0.5, "zh": 0.5}
    )
    assert scores.questions == 4
    assert scores.hit_rate == scores.recall == scores.mrr == scores.ndcg == pytest.approx(2 / 3)
    assert (scores.refused_answerable, scores.refused_unanswerable) == (0, 1)
    generated = evaluation.questions_of_headings(ChunkReader(base))
    assert {question.question for question in generated} == {"Apples", "Boats"}
    path.write_text('{"question": "x"}\nnot json\n', encoding="utf-8")
    with pytest.raises(InvalidRequest, match="line 2"):
        evaluation.read_questions(path)


def test_a_page_of_a_private_network_is_not_fetched(base: KnowledgeBase) -> None:
    for url in ("http://127.0.0.1:1/x.html", "http://169.254.169.254/latest", "file:///etc/passwd"):
        with pytest.raises(NinestoryError):
            add_page(base, url, IngestReport())
    assert len(base.files()) == 1 and len(list(base.documents.iterdir())) == 1


def test_a_page_is_taken_in_under_its_address(
    base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on loopback, which this test lets the guarded client reach."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "index.html").write_text("<h1>Sails</h1><p>A sail catches the wind.</p>", encoding="utf-8")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{served.server_port}/"
        allowed = functools.partial(web.fetch, private_hosts=frozenset({"127.0.0.1"}))
        monkeypatch.setattr(web, "fetch", allowed)
        report = IngestReport()
        add_page(base, url, report)
        served.shutdown()
    ingest(base, Embedder(HashingEngine()), Silent(), report)
    hit = find(base, "sail wind", SearchOptions(limit=1))[0]
    assert (hit.file, hit.text) == (f"{url.rstrip('/')}.html", "A sail catches the wind.")
