"""Finding passages of one knowledge base: vectors and full text, fused by reciprocal rank."""

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
    match = [] if options.mode == "vector" else reader.matching(question, vector, limit, where)
    rows = {row["id"]: row for row in match} | {row["id"]: row for row in near}
    scores = fused([row["id"] for row in near], [row["id"] for row in match], options)
    ranks = [{row["id"]: place for place, row in enumerate(found, 1)} for found in (near, match)]
    hits = [_hit(reader.base.id, row, scores[key], [rank.get(key) for rank in ranks]) for key, row in rows.items()]
    hits.sort(key=lambda hit: (-hit.score, -hit.cosine))
    hits = hits[: options.limit]
    return [_widened(reader, hit, options.neighbours) for hit in hits] if options.neighbours else hits


def fused(near: Sequence[str], match: Sequence[str], options: SearchOptions) -> dict[str, float]:
    """Reciprocal-rank fusion (Cormack et al. 2009) with a weight: a score by id, 1 = first in both searches.

    Args:
        near, match: ids as the vectors and the full text found them, best first.
    """
    weights = {"hybrid": (1.0, options.text_weight), "vector": (1.0, 0.0), "text": (0.0, 1.0)}[options.mode]
    best = sum(weights) / (options.rank_constant + 1)
    scores: dict[str, float] = {}
    for weight, found in zip(weights, (near, match), strict=True):
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


def _hit(base: str, row: dict[str, Any], score: float, places: list[int | None]) -> Hit:
    return Hit(
        base=base,
        **{key: row[key] for key in ("id", "file_id", "file", "ordinal", "text", "context", "page", "start", "end")},
        score=score,
        cosine=row["cosine"],
        vector_rank=places[0],
        text_rank=places[1],
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
