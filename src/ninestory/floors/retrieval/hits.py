"""What a search is asked and what it finds, as plain data: also what crosses from the reading process to the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Mode = Literal["hybrid", "vector", "text"]


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        limit: passages given back.
        candidates: passages taken from each of the two searches.
        rank_constant, text_weight, identifier_weight: of the fusion, weight of vectors = 1 (chosen by measurement, see
            the benchmarks); `identifier_weight` is that of passages which hold an identifier of the question.
        neighbours: passages before and after each hit that are joined to its text.
        file_ids: only passages of these files; None = of all.
    """

    limit: int = 8
    mode: Mode = "hybrid"
    candidates: int = 50
    rank_constant: int = 5
    text_weight: float = 0.8
    identifier_weight: float = 1.0
    neighbours: int = 0
    file_ids: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Hit:
    """One passage found, and why.

    Attributes:
        score: fused, 1 = first in both searches.
        cosine: similarity to the question.
        vector_rank, text_rank: place from 1 in each search; None = not among its candidates.
        terms: identifiers of the question that this passage holds and few others do.
        rerank_score: of the reranker that put it where it stands; None = none was asked.
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
    terms: Sequence[str] = ()
    rerank_score: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def merged(found: Sequence[list[Hit]], limit: int) -> list[Hit]:
    """The hits of several knowledge bases of one model, by cosine, since ranks of different ones do not compare.

    Those that hold an identifier of the question come first.
    """
    if len(found) == 1:
        return found[0][:limit]
    return sorted((hit for hits in found for hit in hits), key=lambda hit: (not hit.terms, -hit.cosine))[:limit]
