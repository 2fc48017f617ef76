"""The order of what was found, looked at once more by a slower and better judge of question and passage together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from ninestory.core.errors import Unsupported
from ninestory.floors.retrieval.hits import Hit
from ninestory.runtimes.protocol import Engine, Relevance, RerankRequest

LATE = "late"  # the name of late interaction with the knowledge base's own embedding model
CANDIDATES = 10  # passages looked at; more cost more and found no more in the measured manuals
Score = Callable[[str, Sequence[str]], Sequence[float]]


def reranked(question: str, hits: Sequence[Hit], score: Score, limit: int) -> list[Hit]:
    """The first `CANDIDATES` hits in the order of their relevance, `rerank_score` set, cut to `limit`.

    Args:
        score: the relevance of each text to the question, higher = better.
    """
    looked_at = list(hits[: max(CANDIDATES, limit)])
    if not looked_at:
        return []
    values = score(question, [searched_text(hit) for hit in looked_at])
    judged = [replace(hit, rerank_score=float(value)) for hit, value in zip(looked_at, values, strict=True)]
    return sorted(judged, key=lambda hit: -(hit.rerank_score or 0.0))[:limit]


def searched_text(hit: Hit) -> str:
    """What a passage is judged by: its heading and its text."""
    return f"{hit.context}\n{hit.text}" if hit.context else hit.text


def scorer(engine: Engine) -> Score:
    """The `score` of an engine in this process.

    Raises:
        Unsupported: the model cannot rerank.
    """
    if "rerank" not in engine.info.tasks:
        raise Unsupported(
            f"{engine.info.model} is no reranker.",
            hint=f"Use a cross-encoder's directory or GGUF (its pooling_type is rank), or '{LATE}' with the starter embedder.",
            hint_zh=f"请使用交叉编码器的目录或 GGUF（pooling_type 为 rank），或对使用自带嵌入模型的知识库写 {LATE}。",
            param="rerank",
        )

    def score(question: str, texts: Sequence[str]) -> Sequence[float]:
        values: list[float] = []
        for chunk in engine.run(RerankRequest(query=question, documents=list(texts)), threading.Event()):
            values += chunk.values if isinstance(chunk, Relevance) else []
        return values

    return score
