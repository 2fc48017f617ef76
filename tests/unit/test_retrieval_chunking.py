"""The structure-aware chunker: offsets, budgets, headings, tables."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ninestory.floors.retrieval.chunking.structure import chunk_document
from ninestory.floors.retrieval.document import Document, DocumentBuilder
from tests.hashing_engine import words


def count(text: str) -> int:
    return len(words(text))


def build(*blocks: tuple[str, str]) -> Document:
    """("h2", "Title"), ("text", "…"), ("table", "…")"""
    builder = DocumentBuilder()
    for kind, text in blocks:
        if kind.startswith("h"):
            builder.add(text, "heading", level=int(kind[1]))
        else:
            builder.add(text, kind)  # type: ignore[arg-type]
    return builder.build()


def test_passages_stay_under_their_heading_and_carry_its_path() -> None:
    document = build(("h1", "A"), ("text", "one."), ("h2", "B"), ("text", "two."), ("h1", "C"), ("text", "three."))
    chunks = chunk_document(document, count)
    assert [(c.text, c.headings, c.context) for c in chunks] == [
        ("one.", ("A",), "A"),
        ("two.", ("A", "B"), "A > B"),
        ("three.", ("C",), "C"),
    ]


def test_a_heading_with_nothing_below_it_is_not_lost() -> None:
    document = build(("h1", "A"), ("h2", "Alone"), ("h2", "B"), ("text", "x."), ("h1", "Last"))
    assert [chunk.text for chunk in chunk_document(document, count)] == ["Alone", "x.", "Last"]


def test_sentences_are_whole_and_overlap() -> None:
    sentences = [f"Sentence number {n} is here." for n in range(40)]
    chunks = chunk_document(build(("text", " ".join(sentences))), count, max_tokens=30, overlap_tokens=6)
    assert all(chunk.text.startswith("Sentence") and chunk.text.endswith(".") for chunk in chunks)
    assert all(count(chunk.text) <= 30 for chunk in chunks)
    assert all(later.start < earlier.end for earlier, later in pairwise(chunks))
    chinese = build(("text", "今天天气很好！我们去公园玩吧。你觉得怎么样？版本 3.14 已发布。"))
    assert [c.text for c in chunk_document(chinese, count, max_tokens=9, overlap_tokens=0)][:2] == [
        "今天天气很好！",
        "我们去公园玩吧。",
    ]


def test_a_long_table_keeps_its_head_with_every_passage() -> None:
    rows = ["name | price"] + [f"item{n} | {n}" for n in range(50)]
    chunks = chunk_document(build(("table", "\n".join(rows))), count, max_tokens=40, overlap_tokens=0)
    assert len(chunks) > 3 and all("name | price" in chunk.searched for chunk in chunks)
    assert chunks[1].context == "name | price" and chunks[0].context == ""


texts = st.lists(
    st.tuples(
        st.sampled_from(["text", "table", "code", "h1", "h3"]),
        st.text(st.sampled_from("ab 中文，。.!?\n|字 "), min_size=1, max_size=200),
    ),
    max_size=8,
)


@given(texts, st.integers(8, 60), st.integers(0, 8))
@settings(max_examples=200, deadline=None)
def test_every_passage_is_a_slice_and_nothing_is_lost(blocks: list[tuple[str, str]], most: int, overlap: int) -> None:
    document = build(*blocks)
    chunks = chunk_document(document, count, max_tokens=most, overlap_tokens=overlap)
    covered = set()
    for chunk in chunks:
        assert chunk.text == document.text[chunk.start : chunk.end] and chunk.text.strip()
        covered |= set(range(chunk.start, chunk.end))
    for block in document.blocks:
        if block.kind != "heading":
            missing = [i for i in range(block.start, block.end) if i not in covered]
            assert not "".join(document.text[i] for i in missing).strip()
