"""Small documents that would stop the queue: each ends alone, in bounded memory, and a cancel is heard within 2 s."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Cancelled, Damaged
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval import intake, parsing
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, create
from ninestory.floors.retrieval.parsing import isolated
from ninestory.floors.retrieval.parsing.isolated import ParserProcess, memory_cap
from ninestory.floors.retrieval.table import ChunkWriter
from ninestory.runtimes.protocol import Chunk, EmbeddingRequest, Request
from tests.documents import epub
from tests.hashing_engine import HashingEngine

HEARD_SECONDS = 2.0


class Stopping(Silent):
    """Cancels when it is told to, and says how long the work went on after that."""

    def __init__(self) -> None:
        super().__init__()
        self._cancelled_at = 0.0

    def cancel(self) -> None:
        self._cancelled_at = time.monotonic()
        self.cancelled = True

    def heard_after(self, work: Callable[[], object]) -> float:
        with pytest.raises(Cancelled):
            work()
        return time.monotonic() - self._cancelled_at


@pytest.fixture
def base(tmp_path: Path) -> Iterator[KnowledgeBase]:
    base = create(Home(tmp_path / "home"), "notes", model="test:hashing")
    yield base
    base.close()


def added(base: KnowledgeBase, path: Path, text: str) -> KnowledgeBase:
    path.write_text(text, encoding="utf-8")
    add_paths(base, [path], IngestReport())
    return base


@pytest.mark.slow
def test_a_cancel_is_heard_while_a_file_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Apples are red.", encoding="utf-8")
    stopping = Stopping()
    with ParserProcess() as parser:
        parser.parse(tmp_path / "a.txt", "a.txt")
        child = parser._child
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)  # a parser that never answers
        stopping.cancel()
        look = lambda: stopping.update(0)  # noqa: E731
        assert stopping.heard_after(lambda: parser.parse_part(tmp_path / "a.txt", "a.txt", 0, look)) < HEARD_SECONDS
        assert child.poll() is not None
        assert parser.parse(tmp_path / "a.txt", "a.txt").text == "Apples are red."


def test_a_cancel_is_heard_inside_one_endless_line(base: KnowledgeBase, tmp_path: Path) -> None:
    stopping = Stopping()

    class Counting(Embedder):
        def count_tokens(self, text: str) -> int:
            if not stopping.cancelled:
                stopping.cancel()
            time.sleep(len(text) / 1_000_000)  # a tokenizer of a million characters a second
            return len(text) // 4

    added(base, tmp_path / "a.md", "x" * 6_000_000)
    assert stopping.heard_after(lambda: ingest(base, Counting(HashingEngine()), stopping)) < HEARD_SECONDS


def test_a_cancel_is_heard_between_few_embedded_texts(base: KnowledgeBase, tmp_path: Path) -> None:
    stopping = Stopping()

    class Slow(HashingEngine):
        def run(self, request: Request, cancel: threading.Event) -> Iterator[Chunk]:
            if isinstance(request, EmbeddingRequest) and len(request.inputs) > 1:
                if not stopping.cancelled:
                    stopping.cancel()
                time.sleep(0.05 * len(request.inputs))
            yield from super().run(request, cancel)

    added(base, tmp_path / "a.md", "\n\n".join(f"# Part {n}\nWords of {n}." for n in range(200)))
    assert stopping.heard_after(lambda: ingest(base, Embedder(Slow()), stopping)) < HEARD_SECONDS


def test_a_cancel_is_heard_between_few_written_passages(
    base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, written = Stopping(), ChunkWriter.add
    monkeypatch.setattr(intake, "_WRITTEN_AT_ONCE", 10)

    def slow(writer: ChunkWriter, rows: list[dict[str, Any]]) -> None:
        if not stopping.cancelled:
            stopping.cancel()
        time.sleep(0.02 * len(rows))
        written(writer, rows)

    monkeypatch.setattr(ChunkWriter, "add", slow)
    added(base, tmp_path / "a.md", "\n\n".join(f"# Part {n}\nWords of {n}." for n in range(200)))
    assert stopping.heard_after(lambda: ingest(base, Embedder(HashingEngine()), stopping)) < HEARD_SECONDS
    monkeypatch.undo()
    assert ingest(base, Embedder(HashingEngine()), Silent()).indexed == 1  # what was half written is written once
    assert base.files()[0].chunks == 200


def test_a_cancel_is_heard_while_a_folder_is_compared(base: KnowledgeBase, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.md").write_text("text", encoding="utf-8")
    stopping = Stopping()
    stopping.cancel()
    assert stopping.heard_after(lambda: sync_folder(base, folder, IngestReport(), stopping)) < HEARD_SECONDS
    assert len(base.files()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("tags", ["<div>", "<DIV >", "<div><p>", "<b><i>", "<svg><g>"])
def test_deep_nesting_is_read_at_once(tmp_path: Path, tags: str) -> None:
    path = tmp_path / "deep.html"
    path.write_text(tags * (1_500_000 // len(tags)) + "Apples are red.", encoding="utf-8")
    with ParserProcess(timeout=20) as parser:
        begin = time.monotonic()
        try:
            assert "Apples" in parser.parse(path, "deep.html").text
        except Damaged as error:  # an svg is no text
            assert "svg" in tags and error.code == "empty_document"
        assert time.monotonic() - begin < 15


def test_a_page_that_is_not_deep_stays_as_it_is() -> None:
    from ninestory.floors.retrieval.parsing.html import without_deep_nesting

    row = b"<tr><td>a<td>b"  # as pages were written once, without an end of any
    page = b"<table>" + row * 2000 + b"</table><p>One<br>two" * 2000 + b"<div><span>x</span></div>" * 2000
    assert without_deep_nesting(page) == page


def test_a_spine_that_names_one_page_again_and_again_is_read_once(tmp_path: Path) -> None:
    path = epub(tmp_path / "a.epub", ["<p>Apples are red.</p>"], repeated=20_000)
    assert parsing.parse(path).text.count("Apples") == 1


@pytest.mark.slow
def test_a_form_that_calls_itself_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "form.pdf"
    path.write_bytes(form_that_calls_itself())
    (tmp_path / "a.txt").write_text("Apples are red.", encoding="utf-8")
    monkeypatch.setattr(isolated, "MOST_MEMORY_BYTES", isolated.LEAST_MEMORY_BYTES)
    with ParserProcess(timeout=60) as parser:
        with pytest.raises(Damaged) as raised:
            parser.parse(path, "form.pdf")
        assert raised.value.code == "parser_died"
        assert parser.parse(tmp_path / "a.txt", "a.txt").text == "Apples are red."


def test_the_parsers_memory_is_a_share_of_what_is_free() -> None:
    assert memory_cap(8 << 30) == 2 << 30
    assert memory_cap(1 << 40) == isolated.MOST_MEMORY_BYTES < 6 << 30
    assert memory_cap(100 << 20) == isolated.LEAST_MEMORY_BYTES


def form_that_calls_itself() -> bytes:
    """A page whose form draws a second one eight times, and that one the first: 8 to the depth that pdfium allows."""
    content, draws = b"BT /F1 11 Tf (Apples are red.) Tj ET /F Do", b"/F Do " * 8
    form = (
        b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /F %d 0 R >> >> /Length %d >>\n"
        b"stream\n%s\nendstream"
    )
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 7 0 R >> /XObject << /F 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        form % (6, len(draws), draws),
        form % (5, len(draws), draws),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    return data + head + table + b"trailer << /Size 8 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(data)
