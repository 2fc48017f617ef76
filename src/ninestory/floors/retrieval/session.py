"""Answering a question from documents, from the question to the chat model's request: the same for every way in.

Command line, API and page hand in engines, open knowledge bases and how their passages are read, and get what to
answer or what to ask the chat model. They only show it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ninestory.floors.retrieval.answer import (
    AnswerMode,
    Prepared,
    condense,
    prepare,
    quoted,
    sent_to,
    standalone,
    stands_alone,
    writes_answers,
)
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.hits import Hit, SearchOptions
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, check_one_model, lowest_thresholds
from ninestory.floors.retrieval.rerank import LATE, scorer
from ninestory.floors.retrieval.search import Read, read_table, search_all
from ninestory.floors.retrieval.web_search import search_web
from ninestory.runtimes.protocol import ChatRequest, EngineProvider, Message, Text


@dataclass(frozen=True)
class AnswerOptions:
    """How documents are searched and answered from.

    Attributes:
        mode: auto, generate, or extract (quote the passages, no chat model).
        filters: OpenAI's attribute filter; only files that pass it are searched.
        reranker: "late" or a reranking model, which judges the passages once more.
        web: endpoint of a web search that is asked too; None = not asked.
        least_score: passages with a lower score are left out.
    """

    mode: AnswerMode = "auto"
    search: SearchOptions = field(default_factory=lambda: SearchOptions(limit=6))
    filters: dict[str, Any] | None = None
    reranker: str = ""
    web: str | None = None
    least_score: float = 0.0


@dataclass(frozen=True)
class DocumentAnswer:
    """What a question gets.

    Attributes:
        query: what was searched for: the question, made to stand alone.
        text: the answer; None where the chat model is to be asked `prepared.request`.
    """

    query: str
    prepared: Prepared
    text: str | None


class DocumentSession:
    """Questions to knowledge bases of one embedding model.

    Args:
        bases: open; they stay their opener's to close.
        model: the chat model.
        context_tokens: what the chat model takes in all, asked when it is needed.
        read: finds the passages of one knowledge base.
    """

    def __init__(
        self,
        bases: Sequence[KnowledgeBase],
        engines: EngineProvider,
        model: str,
        options: AnswerOptions,
        *,
        context_tokens: Callable[[], int],
        read: Read = read_table,
    ) -> None:
        self._bases, self._engines, self._model, self._options = bases, engines, model, options
        self._context_tokens, self._read = context_tokens, read
        self._embedding_model = check_one_model(bases)

    def prepare(self, question: str, history: Sequence[Message] = ()) -> DocumentAnswer:
        """Search for a question, and decide how it is answered.

        Args:
            history: earlier turns; what the question refers to is taken from them.
        """
        query = self._standing_alone(question, history)
        with self._engines.get(self._embedding_model, "embedding") as engine:
            embedder = Embedder(engine)
            hits, vector = self._find(embedder, query)
            prepared = prepare(
                question,
                hits,
                thresholds=lowest_thresholds(self._bases),
                query=query,
                own_hits=self._find(embedder, question)[0] if stands_alone(question, query) else None,
                context_tokens=self._context_tokens(),
                mode=self._options.mode,
                writes=writes_answers(self._model),
                history=history,
            )
            if prepared.reason == "extract":
                vectors = embedder.passages([text for _, text in prepared.sentences])
                return DocumentAnswer(query, prepared, quoted(prepared, vector.tolist(), vectors.tolist()))
        return DocumentAnswer(query, prepared, None if prepared.request else prepared.text)

    def find(self, query: str) -> list[Hit]:
        """The passages nearest to a query, best first."""
        with self._engines.get(self._embedding_model, "embedding") as engine:
            return self._find(Embedder(engine), query)[0]

    def _find(self, embedder: Embedder, query: str) -> tuple[list[Hit], NDArray[np.float32]]:
        """Passages, and web pages where the web is asked too, best first; and the query's vector [d]."""
        vector, options = embedder.query(query), self._options
        hits = self._passages(embedder, query, vector)
        if options.web is not None:
            pages = search_web(options.web, query, lambda texts: (embedder.passages(texts) @ vector).tolist())
            hits = sorted([*hits, *pages], key=lambda hit: -hit.cosine)[: options.search.limit]
        return [hit for hit in hits if hit.score >= options.least_score], vector

    def _passages(self, embedder: Embedder, query: str, vector: NDArray[np.float32]) -> list[Hit]:
        options = self._options
        search = functools.partial(
            search_all, self._bases, query, vector, options.search, filters=options.filters, read=self._read
        )
        if options.reranker in ("", LATE):
            return search(score=scorer(embedder.engine) if options.reranker else None)
        with self._engines.get(options.reranker, "rerank") as judge:
            return search(score=scorer(judge))

    def _standing_alone(self, question: str, history: Sequence[Message]) -> str:
        """The question with what it refers to; where the model is too small for that, beside the one before it."""
        rewrite = condense(history, question)
        if rewrite is None:
            return question
        if self._options.mode == "extract" or not writes_answers(self._model):
            before = [message.text for message in history if message.role == "user"]
            return f"{before[-1]} {question}" if before else question
        return standalone(self._say(rewrite), question)

    def _say(self, request: ChatRequest) -> str:
        with self._engines.get(self._model, "chat") as engine:
            chunks = engine.run(sent_to(request, self._model), threading.Event())
            return "".join(chunk.text for chunk in chunks if isinstance(chunk, Text) and not chunk.reasoning)
