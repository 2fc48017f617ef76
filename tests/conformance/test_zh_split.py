"""Splitters, titles and neighbour expansion against langchain-ChatGLM's own code (tests/fixtures/zh_split/README.md)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ninestory.floors.retrieval.chunking.chinese import split_long, split_short
from ninestory.floors.retrieval.chunking.recursive import split_recursive
from ninestory.floors.retrieval.chunking.titles import is_mostly_symbols, is_title, with_titles
from ninestory.floors.retrieval.langchain_chatglm import IndexedPassage, delete_source, expand_hits, nearest

from .conftest import FIXTURES

FOLDER = FIXTURES / "zh_split"


def load(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cases": []}
    return data


SENTENCES = load("chinese_text_splitter")
RECURSIVE = load("chinese_recursive_text_splitter")
TITLES = load("zh_title_enhance")
EXPANSION = load("context_expansion")
DELETION = load("delete_source")


def label(case: dict[str, Any]) -> str:
    return "-".join(str(value) for key, value in case.items() if key != "chunks")


@pytest.mark.parametrize("case", SENTENCES["cases"], ids=label)
def test_sentence_splitter(case: dict[str, Any]) -> None:
    text = SENTENCES["texts"][case["text_id"]]
    if case["variant"] == "simple":
        assert split_short(text, pdf=case["pdf"]) == case["chunks"]
    else:
        assert split_long(text, case["sentence_size"], pdf=case["pdf"]) == case["chunks"]


@pytest.mark.parametrize("case", RECURSIVE["cases"], ids=label)
def test_recursive_splitter(case: dict[str, Any]) -> None:
    text = RECURSIVE["texts"][case["text_id"]]
    assert split_recursive(text, case["chunk_size"], case["chunk_overlap"]) == case["chunks"]


def test_titles() -> None:
    for line in TITLES["per_line"]:
        assert is_mostly_symbols(line["text"]) == line["under_non_alpha"], line
        assert is_title(line["text"]) == line["is_title"], line


def test_title_enhancement() -> None:
    expected = [(d["page_content"], d["metadata"].get("category") == "cn_Title") for d in TITLES["enhanced"]]
    assert with_titles(TITLES["lines"]) == expected


def passages(data: dict[str, Any]) -> list[IndexedPassage]:
    return [
        IndexedPassage(
            id=document["id"],
            text=document["page_content"],
            source=document["metadata"]["source"],
            expand=document["metadata"].get("context_expand", True),
            direction=document["metadata"].get("context_expand_method", "both"),
        )
        for document in data["documents"]
    ]


@pytest.mark.parametrize("place", range(len(EXPANSION["cases"])))
def test_neighbour_expansion(place: int) -> None:
    case = EXPANSION["cases"][place]
    vectors = np.array(EXPANSION["embeddings"], dtype=np.float32)
    hits = nearest(vectors, np.array(case["query"], dtype=np.float32), case["k"])
    assert [i for i, _ in hits] == [hit["index"] for hit in case["raw_hits"]]
    np.testing.assert_allclose([d for _, d in hits], [hit["score"] for hit in case["raw_hits"]], atol=1e-2)
    results = expand_hits(
        passages(EXPANSION),
        hits,
        threshold=case["score_threshold"],
        chunk_size=case["chunk_size"],
        expand=case["chunk_content"],
    )
    got = [(p.text, p.source, p.score) for p in results]
    wanted = [(r["page_content"], r["metadata"]["source"], r["metadata"]["score"]) for r in case["result"]]
    assert got == wanted


@pytest.mark.parametrize("case", DELETION["cases"], ids=lambda case: case["delete"])
def test_deleting_a_source(case: dict[str, Any]) -> None:
    left, status = delete_source(passages(DELETION), case["delete"])
    assert status == case["status"]
    assert {str(i): passage.id for i, passage in enumerate(left)} == case["index_to_id"]
    assert len(left) == case["ntotal"]
    assert sorted({passage.source for passage in left}) == sorted(case["sources"])
