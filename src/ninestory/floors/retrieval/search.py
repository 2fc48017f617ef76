"""Finding passages: vectors and full text, fused by reciprocal rank, over one or several knowledge bases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
from ninestory.floors.retrieval.table import ChunkReader, quoted

Mode = Literal["hybrid", "vector", "text"]


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        limit: passages given back.
        candidates: passages taken from each of the two searches.
        rank_constant, text_weight: of the fusion, weight of vectors = 1 (chosen by measurement, see the benchmarks).
        neighbours: passages before and after each hit that are joined to its text.
        file_ids: only passages of these files; None = of all.
    """

    limit: int = 8
    mode: Mode = "hybrid"
    candidates: int = 50
    rank_constant: int = 10
    text_weight: float = 0.5
    neighbours: int = 0
    file_ids: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Hit:
    """One passage found, and why.

    Attributes:
        score: fused, 1 = first in both searches.
        cosine: similarity to the question.
        vector_rank, text_rank: place from 1 in each search; None = not among its candidates.
    """

    base: str
    id: str
    file_id: str
    file: str
    ordinal: int
    text: str
    context: str
    page: int | None
    start: int
    end: int
    score: float
    cosine: float
    vector_rank: int | None
    text_rank: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def search(
    reader: ChunkReader, question: str, vector: NDArray[np.float32], options: SearchOptions = SearchOptions()
) -> list[Hit]:
    """The best passages of one knowledge base, best first; an empty list while nothing is published.

    Args:
        vector: the question's unit vector [d].
    """
    if not question.strip() or not reader.refresh():
        return []
    where = _where(reader.base, options.file_ids)
    limit = max(options.candidates, options.limit)
    near = [] if options.mode == "text" else reader.nearest(vector.tolist(), limit, where)
    match = [] if options.mode == "vector" else reader.matching(question, limit, where)
    rows = {row["id"]: row for row in match} | {row["id"]: row for row in near}
    ranks = [{row["id"]: place for place, row in enumerate(found, 1)} for found in (near, match)]
    weights = {"hybrid": (1.0, options.text_weight), "vector": (1.0, 0.0), "text": (0.0, 1.0)}[options.mode]
    best = sum(weights) / (options.rank_constant + 1)
    hits = []
    for key, row in rows.items():
        places = [rank.get(key) for rank in ranks]
        parts = [w / (options.rank_constant + p) for w, p in zip(weights, places, strict=True) if p is not None]
        cosine = row["cosine"] if "cosine" in row else float(np.dot(vector, np.array(row["vector"], dtype=np.float32)))
        hits.append(_hit(reader.base.id, row, sum(parts) / best, cosine, places))
    hits.sort(key=lambda hit: (-hit.score, -hit.cosine))
    hits = hits[: options.limit]
    return [_widened(reader, hit, options.neighbours) for hit in hits] if options.neighbours else hits


def merged(found: Sequence[list[Hit]], limit: int) -> list[Hit]:
    """The hits of several knowledge bases of one model: by cosine, since ranks of different ones do not compare."""
    if len(found) == 1:
        return found[0][:limit]
    return sorted((hit for hits in found for hit in hits), key=lambda hit: -hit.cosine)[:limit]


def _where(base: KnowledgeBase, file_ids: tuple[str, ...] | None) -> str | None:
    """Files that were removed since the last ingest answer no more."""
    if file_ids is not None:
        return f"file_id IN ({quoted(file_ids)})" if file_ids else "file_id = ''"
    removed = [file.id for file in base.files("removed")]
    return f"file_id NOT IN ({quoted(removed)})" if removed else None


def _hit(base: str, row: dict[str, Any], score: float, cosine: float, places: list[int | None]) -> Hit:
    return Hit(
        base=base,
        **{key: row[key] for key in ("id", "file_id", "file", "ordinal", "text", "context", "page", "start", "end")},
        score=score,
        cosine=cosine,
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
