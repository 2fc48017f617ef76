"""Questions to documents in this process: the embedding, reranking and chat models stay loaded between two of them."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ninestory.core.errors import InvalidRequest, from_dict
from ninestory.core.paths import Home

if TYPE_CHECKING:
    from ninestory.floors.retrieval.answer import Prepared
    from ninestory.floors.retrieval.hits import Hit
    from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
    from ninestory.runtimes.protocol import ChatRequest, Engine, Message


class DocumentSession:
    """A conversation with knowledge bases, or with one file that is forgotten at the end."""

    def __init__(
        self,
        names: Sequence[str],
        file: Path | None,
        model: str,
        mode: Any,
        limit: int,
        max_tokens: int,
        reranker: str,
        only: Sequence[str],
        web: str | None,
    ) -> None:
        """`web`: the endpoint of the web search; None = not asked for."""
        self._names, self._file, self._model, self._mode = names, file, model, mode
        self._limit, self._max_tokens, self._reranker, self._web = limit, max_tokens, reranker, web
        self._filters = attribute_filter(only)
        self._history: list[Message] = []
        self._open = contextlib.ExitStack()
        self._engines: dict[str, Engine] = {}

    def __enter__(self) -> DocumentSession:
        from ninestory.floors.retrieval.embedder import Embedder
        from ninestory.floors.retrieval.knowledge_base import DEFAULT_MODEL, check_one_model, open_base

        if self._file is None:
            self._bases = [open_base(Home.default(), name) for name in self._names]
            self._embedder = Embedder(self._engine(check_one_model(self._bases)))
        else:
            self._embedder = Embedder(self._engine(DEFAULT_MODEL))
            self._bases = [self._temporary(self._file)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def answer(self, question: str, show: Callable[[str], None] | None) -> tuple[Prepared, str]:
        """One question, with what was said before; the chat model's words go to `show` as they come."""
        from ninestory.floors.retrieval.answer import languages_of, prepare, quoted
        from ninestory.floors.retrieval.knowledge_base import lowest_threshold
        from ninestory.models.resolve import resolve
        from ninestory.runtimes.protocol import Message

        query = self._standing_alone(question)
        vector = self._embedder.query(query)
        resolved = resolve(self._model, Home.default())
        prepared = prepare(
            question,
            self._found(query, vector),
            threshold=lowest_threshold(self._bases),
            context_tokens=self._settings.context or min(resolved.context or 4096, 4096),
            mode=self._mode,
            model_languages=languages_of(self._model),
            history=self._history,
        )
        if prepared.reason == "extract":
            vectors = self._embedder.passages([text for _, text in prepared.sentences])
            text = quoted(prepared, vector.tolist(), vectors.tolist())
        elif prepared.request is None:
            text = prepared.text
        else:
            text = self._say(dataclasses.replace(prepared.request, max_tokens=self._max_tokens), show)
        self._history += [Message(role="user", content=question), Message(role="assistant", content=text)]
        return prepared, text

    def search_for_tool(self, question: str, limit: int) -> str:
        """The passages found, for a client that reads text."""
        from ninestory.floors.retrieval.answer import language_of, place_of

        self._limit = limit
        hits = self._found(question, self._embedder.query(question))
        language = language_of(question)
        return "\n\n".join(f"[{n}] {place_of(hit, language)}\n{hit.text}" for n, hit in enumerate(hits, 1))

    def ask_for_tool(self, question: str, limit: int) -> str:
        """An answer with its sources below it; questions are independent of one another."""
        from ninestory.floors.retrieval.answer import language_of, place_of

        self._limit, self._history = limit, []
        prepared, text = self.answer(question, None)
        sources = [f"[{n}] {place_of(hit, language_of(question))}" for n, hit in enumerate(prepared.passages, 1)]
        return "\n".join([text, *([prepared.notice] if prepared.notice else []), *sources])

    @property
    def _settings(self) -> Any:
        from ninestory.core.config import load_settings

        return load_settings().settings.runtime

    def _engine(self, model: str) -> Engine:
        from ninestory.models.resolve import resolve
        from ninestory.runtimes.load import load_engine

        if model not in self._engines:
            self._engines[model] = load_engine(resolve(model, Home.default()), self._settings)
            self._open.callback(self._engines[model].close)
        return self._engines[model]

    def _found(self, query: str, vector: Any) -> list[Hit]:
        from ninestory.floors.retrieval.hits import SearchOptions
        from ninestory.floors.retrieval.rerank import LATE, scorer
        from ninestory.floors.retrieval.search import search_all
        from ninestory.floors.retrieval.web_search import search_web

        score = None
        if self._reranker:
            score = scorer(self._embedder.engine if self._reranker == LATE else self._engine(self._reranker))
        options = SearchOptions(limit=self._limit)
        hits = search_all(self._bases, query, vector, options, filters=self._filters, score=score)
        if self._web is None:
            return hits
        found = search_web(self._web, query, lambda texts: self._embedder.passages(texts) @ vector)
        return sorted([*hits, *found], key=lambda hit: -hit.cosine)[: self._limit]

    def _standing_alone(self, question: str) -> str:
        from ninestory.floors.retrieval.answer import condense, language_of, languages_of, standalone

        rewrite = condense(self._history, question)
        if rewrite is None:
            return question
        spoken = languages_of(self._model)
        if self._mode == "extract" or (spoken and language_of(question) not in spoken):
            return f"{next(m.text for m in reversed(self._history) if m.role == 'user')} {question}"
        return standalone(self._say(rewrite, None), question)

    def _say(self, request: ChatRequest, show: Callable[[str], None] | None) -> str:
        from ninestory.runtimes.protocol import Text

        pieces = []
        for chunk in self._engine(self._model).run(request, threading.Event()):
            if isinstance(chunk, Text) and not chunk.reasoning:
                pieces.append(chunk.text)
                if show:
                    show(chunk.text)
        return "".join(pieces)

    def _temporary(self, file: Path) -> KnowledgeBase:
        """A knowledge base of one file, in a folder that goes with this session."""
        from ninestory.core.progress import Silent
        from ninestory.floors.retrieval.ingest import IngestReport, add_paths, ingest
        from ninestory.floors.retrieval.knowledge_base import create

        folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="ninestory-ask-"))
        base, report = create(Home(Path(folder)), file.name[:100]), IngestReport()
        self._open.callback(base.close)
        add_paths(base, [file], report)
        ingest(base, self._embedder, Silent(), report)
        if failed := base.files("failed"):
            raise from_dict(failed[0].error or {})
        return base


def attribute_filter(only: Sequence[str]) -> dict[str, Any] | None:
    """KEY=VALUE pairs as a filter that all must pass; numbers are compared as numbers.

    Raises:
        InvalidRequest: one has no "=".
    """
    conditions = [{"type": "eq", "key": key, "value": value} for key, value in attributes_of(only).items()]
    return {"type": "and", "filters": conditions} if conditions else None


def attributes_of(pairs: Sequence[str]) -> dict[str, str | float]:
    """KEY=VALUE pairs as attributes; what reads as a number is one.

    Raises:
        InvalidRequest: one has no "=".
    """
    attributes: dict[str, str | float] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InvalidRequest(f"{pair!r} is not KEY=VALUE.", param="attribute")
        try:
            attributes[key] = float(value)
        except ValueError:
            attributes[key] = value
    return attributes
