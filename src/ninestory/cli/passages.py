"""Passages on a terminal: those of a file, and those that a search found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ninestory.floors.retrieval.hits import Hit


def print_passages(passages: Iterable[dict[str, Any]]) -> None:
    """A file's passages, each with its number, page, offsets and heading."""
    for row in passages:
        page = f" page {row['page']}" if row["page"] else ""
        print(f"[{row['ordinal']}]{page} {row['start']}–{row['end']} {row['context']}\n{row['text']}\n")


def print_hits(hits: Iterable[Hit]) -> None:
    """Passages found, and why."""
    from ninestory.floors.retrieval.answer import place_of

    for number, hit in enumerate(hits, 1):
        ranks = f"vector {hit.vector_rank or '–'}, text {hit.text_rank or '–'}"
        ranks += "" if hit.rerank_score is None else f", reranked {hit.rerank_score:.3f}"
        print(f"[{number}] {place_of(hit)}  (score {hit.score:.2f}, cosine {hit.cosine:.3f}, {ranks})\n{hit.text}\n")
