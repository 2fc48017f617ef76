"""The source beside its passages: pages as pictures with the passages' lines on them, other documents as their text."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from ninestory.core.errors import Damaged, InvalidRequest, NotFound, TooLarge, Unsupported
from ninestory.core.paths import Home
from ninestory.floors.retrieval.chunking.structure import chunk_document
from ninestory.floors.retrieval.ingest import IngestReport, sync_folder
from ninestory.floors.retrieval.knowledge_base import create
from ninestory.floors.retrieval.parsing import parse, text
from ninestory.floors.retrieval.parsing.isolated import ParserProcess
from ninestory.floors.retrieval.source import WINDOW_CHARACTERS, kind_of, page_of, picture_of, text_of
from ninestory.serving.source_reader import SourceReader
from tests import documents

LINES = [
    "Rivers flow to the sea.",
    "Mountains stand still while",
    "the clouds go by.",
    "A last line of this page that goes",
]
NEXT = ["on over here and comes to its end.", "Another thing is said."]


def chunks(path: Path, most: int = 12) -> list[tuple[str, int | None]]:
    document = parse(path)
    return [(chunk.text, chunk.page) for chunk in chunk_document(document, lambda t: len(t.split()), max_tokens=most)]


def test_passages_are_found_on_their_page_line_by_line(tmp_path: Path) -> None:
    path = documents.pdf(tmp_path / "a.pdf", [LINES, NEXT])
    passages = [passage for passage, page in chunks(path) if page == 1]
    page = page_of(path, "a.pdf", 1, [*passages, "Nothing of this stands there at all."])
    assert (page["page"], page["pages"], page["width"], page["height"]) == (1, 2, 595, 842)
    lines = [len(boxes) for boxes in page["boxes"]]
    assert lines[-1] == 0 and all(lines[:-1]) and sum(lines) >= len(LINES)
    first = page["boxes"][0][0]
    assert 0.09 < first[0] < 0.11 and 0.07 < first[1] < 0.11  # 60 points from the left, 82 from the top
    tops = [boxes[0][1] for boxes in page["boxes"] if boxes]
    assert tops == sorted(tops)


def test_a_passage_that_crosses_the_pages_end_is_shown_on_both(tmp_path: Path) -> None:
    path = documents.pdf(tmp_path / "a.pdf", [LINES, NEXT])
    crossing = "A last line of this page that goes on over here and comes to its end."
    (here,), (there,) = (page_of(path, "a.pdf", page, [crossing])["boxes"] for page in (1, 2))
    assert len(here) == 1 and len(there) == 1 and here[0][1] > there[0][1]


def test_no_passage_runs_over_the_end_of_a_page(tmp_path: Path) -> None:
    path = documents.pdf(tmp_path / "a.pdf", [["Tea is green."], ["Rivers flow."], ["Mountains stand still."]])
    assert chunks(path, 240) == [("Tea is green.", 1), ("Rivers flow.", 2), ("Mountains stand still.", 3)]


def test_pages_are_pictures(tmp_path: Path) -> None:
    pdf = documents.pdf(tmp_path / "a.pdf", [LINES, NEXT])
    page = Image.open(io.BytesIO(picture_of(pdf, "a.pdf", 2)))
    assert page.format == "PNG" and page.size == (1131, 1600) and len(page.getcolors(1 << 20) or []) > 2
    picture = Image.new("RGB", (3000, 1000), "white")
    ImageDraw.Draw(picture).line((0, 0, 3000, 1000), "black", 5)
    picture.save(tmp_path / "b.jpg")
    assert Image.open(io.BytesIO(picture_of(tmp_path / "b.jpg", "b.jpg", 1))).size == (1600, 533)
    assert page_of(tmp_path / "b.jpg", "b.jpg", 1, ["x"])["boxes"] == [[]]
    for path, number in ((pdf, 3), (tmp_path / "b.jpg", 2)):
        with pytest.raises(NotFound, match=f"no page {number}"):
            picture_of(path, path.name, number)
        with pytest.raises(NotFound, match=f"no page {number}"):
            page_of(path, path.name, number, [])


def test_text_is_given_around_a_place_with_the_offsets_of_its_passages(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(
        "# Tea\n\n" + "\n\n".join(f"Paragraph {n} says a little about tea. 茶。" for n in range(4000)), "utf-8"
    )
    document = parse(path)
    passage = chunk_document(document, lambda t: len(t.split()))[90]
    window = text_of(path, "a.md", passage.start)
    assert window["length"] == len(document.text) and window["end"] - window["start"] == WINDOW_CHARACTERS
    assert window["start"] < passage.start and passage.end < window["end"]
    for block in window["blocks"]:
        assert block["text"] == document.text[block["start"] : block["end"]]
    assert text_of(path, "a.md", 0)["blocks"][0]["kind"] == "heading"
    assert text_of(path, "a.md", 10**9)["end"] == len(document.text)
    assert (kind_of("a.md"), kind_of("A.PDF"), kind_of("scan.png"), kind_of("none")) == ("text", "page", "page", "text")


def test_what_cannot_be_shown_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "WHOLE_BYTES", 100)
    (tmp_path / "large.txt").write_text("words " * 100)
    with pytest.raises(TooLarge, match="too large to be shown"):
        text_of(tmp_path / "large.txt", "large.txt", 0)
    with pytest.raises(Unsupported, match="encrypted"):
        picture_of(documents.pdf(tmp_path / "secret.pdf", [LINES], encrypted=True), "secret.pdf", 1)
    (tmp_path / "junk.pdf").write_bytes(b"%PDF-junk")
    (tmp_path / "junk.png").write_bytes(b"\x89PNG junk")
    for name in ("junk.pdf", "junk.png"):
        with pytest.raises(Damaged):
            page_of(tmp_path / name, name, 1, [])


def test_the_reading_process_shows_sources_and_outlives_a_bad_one(tmp_path: Path) -> None:
    path = documents.pdf(tmp_path / "a.pdf", [LINES])
    (tmp_path / "junk.pdf").write_bytes(b"%PDF-junk")
    with ParserProcess() as process:
        with pytest.raises(Damaged):
            process.ask("picture", tmp_path / "junk.pdf", "junk.pdf", 1)
        assert process.ask("page", path, "a.pdf", 1, [LINES[0]])["boxes"][0]
        assert process.ask("picture", path, "a.pdf", 1).startswith("iVBOR")
        assert process.ask("text", path, "a.pdf", 0)["blocks"][0]["page"] == 1


def test_a_file_that_became_a_link_out_of_its_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("Tea is green.", encoding="utf-8")
    base, report = create(Home(tmp_path / "home"), "notes", model="test:hashing"), IngestReport()
    sync_folder(base, tmp_path / "docs", report)
    (file,) = base.files()
    reader = SourceReader()
    try:
        assert "Tea is green." in str(asyncio.run(reader.text(file, 0)))
        (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
        file.path.unlink()
        file.path.symlink_to(tmp_path / "secret.txt")
        with pytest.raises(InvalidRequest):
            asyncio.run(reader.text(file, 0))
    finally:
        reader.close()
