"""Finding passages of one knowledge base: vectors, full text and identifiers, fused by reciprocal rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ninestory.floors.retrieval.filters import chosen_files
from ninestory.floors.retrieval.hits import Hit, SearchOptions, merged
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, check_one_model
from ninestory.floors.retrieval.rerank import CANDIDATES, Score, reranked
from ninestory.floors.retrieval.table import ChunkReader, quoted
from ninestory.floors.retrieval.terms import content_words, holds, identifiers

_MOST_IDENTIFIERS = 4  # of a question; each costs one full-text search


def search(reader: ChunkReader, question: str, vector: NDArray[np.float32], options: SearchOptions) -> list[Hit]:
    """The best passages of one knowledge base, best first; an empty list while nothing is published.

    Args:
        vector: the question's unit vector [d].
    """
    if not question.strip() or not reader.refresh():
        return []
    where = _where(reader.base, options.file_ids)
    limit = max(options.candidates, options.limit)
    near = [] if options.mode == "text" else reader.nearest(vector, limit, where)
    match = [] if options.mode == "vector" else reader.matching(content_words(question), vector, limit, where)
    holding = {} if options.mode == "vector" else holding_identifiers(reader, question, vector, options, where)
    rows = {row["id"]: row for found in (*holding.values(), match, near) for row in found}
    ids = {name: [row["id"] for row in found] for name, found in holding.items()}
    scores = fused([row["id"] for row in near], [row["id"] for row in match], options, list(ids.values()))
    ranks = [{row["id"]: place for place, row in enumerate(found, 1)} for found in (near, match)]
    hits = [
        _hit(
            reader.base.id,
            row,
            scores[key],
            [rank.get(key) for rank in ranks],
            [name for name, found in ids.items() if key in found],
        )
        for key, row in rows.items()
    ]
    hits.sort(key=lambda hit: (-hit.score, -hit.cosine))
    hits = hits[: options.limit]
    return [_widened(reader, hit, options.neighbours) for hit in hits] if options.neighbours else hits


def holding_identifiers(
    reader: ChunkReader, question: str, vector: NDArray[np.float32], options: SearchOptions, where: str | None
) -> dict[str, list[dict[str, Any]]]:
    """For each identifier of the question, the rows that hold it, best BM25 score first.

    An identifier that `options.candidates` rows hold is not rare: it says nothing and is left out.
    """
    holding = {}
    for identifier in identifiers(question)[:_MOST_IDENTIFIERS]:
        # full text cuts identifiers into words and ignores their marks, so what it finds is looked at letter by letter
        rows = reader.matching_all(identifier, vector, 2 * options.candidates, where)
        found = [row for row in rows if holds(f"{row['context']}\n{row['text']}", identifier)]
        if 0 < len(found) < options.candidates:
            holding[identifier] = found
    return holding


def fused(
    near: Sequence[str], match: Sequence[str], options: SearchOptions, holding: Sequence[Sequence[str]] = ()
) -> dict[str, float]:
    """Reciprocal-rank fusion (Cormack et al. 2009) with a weight: a score by id, 1 = first in every search.

    Args:
        near, match: ids as the vectors and the full text found them, best first.
        holding: for each identifier of the question the ids that hold it, best first.
    """
    weights = [*{"hybrid": (1.0, options.text_weight), "vector": (1.0, 0.0), "text": (0.0, 1.0)}[options.mode]]
    weights += [options.identifier_weight] * len(holding)
    best = sum(weights) / (options.rank_constant + 1)
    scores: dict[str, float] = {}
    for weight, found in zip(weights, (near, match, *holding), strict=True):
        for place, key in enumerate(found, 1):
            scores[key] = scores.get(key, 0.0) + weight / (options.rank_constant + place) / best
    return scores


# (knowledge base, question, its vector [d], options) → the best passages
Read = Callable[[KnowledgeBase, str, NDArray[np.float32], SearchOptions], list[Hit]]


def read_table(base: KnowledgeBase, question: str, vector: NDArray[np.float32], options: SearchOptions) -> list[Hit]:
    """Search one knowledge base in this process."""
    return search(ChunkReader(base), question, vector, options)


def search_all(
    bases: Sequence[KnowledgeBase],
    question: str,
    vector: NDArray[np.float32],
    options: SearchOptions,
    *,
    filters: dict[str, Any] | None = None,
    score: Score | None = None,
    read: Read | None = None,
) -> list[Hit]:
    """The best passages of several knowledge bases of one embedding model, reranked where `score` is given.

    Args:
        filters: OpenAI's attribute filter; only files that pass it are searched.
        read: searches one knowledge base; in this process when left out.

    Raises:
        InvalidRequest: the bases are of different embedding models.
    """
    check_one_model(bases)
    wide = replace(options, limit=max(options.limit, CANDIDATES)) if score else options
    found = []
    for base in bases:
        own = replace(wide, file_ids=chosen_files(base, filters)) if filters else wide
        found.append((read or read_table)(base, question, vector, own))
    hits = merged(found, wide.limit)
    return reranked(question, hits, score, options.limit) if score else hits


def _where(base: KnowledgeBase, file_ids: tuple[str, ...] | None) -> str | None:
    """Files that were removed since the last ingest answer no more."""
    if file_ids is not None:
        return f"file_id IN ({quoted(file_ids)})" if file_ids else "file_id = ''"
    removed = [file.id for file in base.files("removed")]
    return f"file_id NOT IN ({quoted(removed)})" if removed else None


def _hit(base: str, row: dict[str, Any], score: float, places: list[int | None], terms: list[str]) -> Hit:
    return Hit(
        base=base,
        **{key: row[key] for key in ("id", "file_id", "file", "ordinal", "text", "context", "page", "start", "end")},
        score=score,
        cosine=row["cosine"],
        vector_rank=places[0],
        text_rank=places[1],
        terms=terms,
    )


def _widened(reader: ChunkReader, hit: Hit, neighbours: int) -> Hit:
    """The hit with its neighbours' text; passages overlap, so what both have is taken once."""
    rows = reader.of_file(hit.file_id, max(hit.ordinal - neighbours, 0), 2 * neighbours + 1)
    text, end = "", rows[0]["start"]
    for row in rows:
        fresh = row["text"][max(end - row["start"], 0) :]
        text += ("\n" if text and row["start"] > end else "") + fresh
        end = max(end, row["end"])
    return replace(hit, text=text, start=rows[0]["start"], end=end)
