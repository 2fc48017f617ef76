"""Passages on a terminal: those of a file, and those that a search found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ninestory.floors.retrieval import Hit


def print_passages(passages: Iterable[dict[str, Any]]) -> None:
    """A file's passages, each with its number, page, offsets and heading."""
    for row in passages:
        page = f" page {row['page']}" if row["page"] else ""
        print(f"[{row['ordinal']}]{page} {row['start']}–{row['end']} {row['context']}\n{row['text']}\n")


def print_hits(hits: Iterable[Hit], threshold: float | None, accepted_by: str | None) -> None:
    """Passages found and why, in the user's language; first whether they are taken for an answer."""
    from ninestory.cli.app import language
    from ninestory.floors.retrieval import SEARCH_WORDS, place_of

    spoken = language()
    words = SEARCH_WORDS[spoken]
    needed = "–" if threshold is None else f"{threshold:.3f}"
    print(words.verdict[accepted_by].format(threshold=needed) + "\n")
    for number, hit in enumerate(hits, 1):
        why = words.why.format(
            cosine=f"{hit.cosine:.3f}",
            threshold=needed,
            relation="<" if threshold is not None and hit.cosine < threshold else "≥",
            vector=hit.vector_rank or "–",
            text=hit.text_rank or "–",
        )
        why += words.holds.format(terms=", ".join(hit.terms)) if hit.terms else ""
        why += "" if hit.rerank_score is None else words.reranked.format(score=f"{hit.rerank_score:.3f}")
        print(f"[{number}] {place_of(hit, spoken)}  ({why})\n{hit.text}\n")
