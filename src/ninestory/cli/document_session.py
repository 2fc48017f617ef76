"""Questions to documents in this process: the embedding, reranking and chat models stay loaded between two of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ninestory.core.errors import InvalidRequest, from_dict
from ninestory.core.paths import Home
from ninestory.core.scratch import ScratchFolder

if TYPE_CHECKING:
    from ninestory.floors.chat import ChatModel
    from ninestory.floors.retrieval.answer import Prepared
    from ninestory.floors.retrieval.hits import Hit
    from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
    from ninestory.runtimes.protocol import ChatRequest, Engine, Message


@dataclass(frozen=True)
class AnswerOptions:
    """How documents are searched and answered from.

    Attributes:
        mode: auto, generate, or extract (quote the passages, no chat model).
        limit: passages looked at.
        reranker: "late" or a reranking model, which judges the passages once more.
        only: KEY=VALUE pairs; only files with these attributes.
        web: endpoint of a web search that is asked too.
        generation: max_tokens, temperature …, as `ChatModel.chat` takes them.
    """

    mode: Any = "auto"
    limit: int = 6
    reranker: str = ""
    only: Sequence[str] = ()
    web: str | None = None
    generation: dict[str, Any] = field(default_factory=dict)


class DocumentSession:
    """A conversation with knowledge bases, or with one file that is forgotten at the end."""

    def __init__(
        self,
        names: Sequence[str],
        model: str,
        options: AnswerOptions,
        *,
        file: Path | None = None,
        chat: ChatModel | None = None,
    ) -> None:
        """`chat`: the loaded model; None loads `model` when an answer first needs it."""
        self._names, self._file, self._model, self._options = names, file, model, options
        self._filters = attribute_filter(options.only)
        self._history: list[Message] = []
        self._open = contextlib.ExitStack()
        self._engines: dict[str, Engine] = {}
        self._chat = chat

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

    def answer(
        self, question: str, show: Callable[[str], None] | None, limit: int | None = None
    ) -> tuple[Prepared, str]:
        """One question, with what was said before; the chat model's words go to `show` as they come."""
        from ninestory.floors.retrieval.answer import prepare, quoted, writes_answers
        from ninestory.floors.retrieval.knowledge_base import lowest_threshold
        from ninestory.runtimes.protocol import Message

        query = self._standing_alone(question)
        vector = self._embedder.query(query)
        threshold = lowest_threshold(self._bases)
        prepared = prepare(
            question,
            self._found(query, vector, limit or self._options.limit),
            threshold=threshold,
            context_tokens=self._context(),
            mode=self._options.mode,
            writes=writes_answers(self._model),
            history=self._history,
        )
        if prepared.reason == "extract":
            vectors = self._embedder.passages([text for _, text in prepared.sentences])
            text = quoted(prepared, vector.tolist(), vectors.tolist(), threshold)
        elif prepared.request is None:
            text = prepared.text
        else:
            text = self._say(self._with_wishes(prepared.request), show)
        self._history += [Message(role="user", content=question), Message(role="assistant", content=text)]
        return prepared, text

    def search_for_tool(self, question: str, limit: int) -> str:
        """The passages found, for a client that reads text."""
        from ninestory.floors.retrieval.answer import language_of, place_of

        hits = self._found(question, self._embedder.query(question), limit)
        language = language_of(question)
        return "\n\n".join(f"[{n}] {place_of(hit, language)}\n{hit.text}" for n, hit in enumerate(hits, 1))

    def ask_for_tool(self, question: str, limit: int) -> str:
        """An answer with its sources below it; questions are independent of one another."""
        from ninestory.floors.retrieval.answer import language_of, place_of

        self._history = []
        prepared, text = self.answer(question, None, limit)
        sources = [f"[{n}] {place_of(hit, language_of(question))}" for n, hit in enumerate(prepared.passages, 1)]
        return "\n".join([text, *([prepared.notice] if prepared.notice else []), *sources])

    @property
    def _settings(self) -> Any:
        from ninestory.core.config import load_settings

        return load_settings().settings.runtime

    def _context(self) -> int:
        """Tokens that passages, history and answer share."""
        from ninestory.models.resolve import resolve

        if self._chat is not None:
            return self._chat.info.context
        return self._settings.context or min(resolve(self._model, Home.default()).context or 4096, 4096)

    def _engine(self, model: str) -> Engine:
        from ninestory.models.resolve import resolve
        from ninestory.runtimes.load import load_engine

        if model not in self._engines:
            self._engines[model] = load_engine(resolve(model, Home.default()), self._settings)
            self._open.callback(self._engines[model].close)
        return self._engines[model]

    def _found(self, query: str, vector: Any, limit: int) -> list[Hit]:
        from ninestory.floors.retrieval.hits import SearchOptions
        from ninestory.floors.retrieval.rerank import LATE, scorer
        from ninestory.floors.retrieval.search import search_all
        from ninestory.floors.retrieval.web_search import search_web

        score, reranker, web = None, self._options.reranker, self._options.web
        if reranker:
            score = scorer(self._embedder.engine if reranker == LATE else self._engine(reranker))
        options = SearchOptions(limit=limit)
        hits = search_all(self._bases, query, vector, options, filters=self._filters, score=score)
        if web is None:
            return hits
        found = search_web(web, query, lambda texts: self._embedder.passages(texts) @ vector)
        return sorted([*hits, *found], key=lambda hit: -hit.cosine)[:limit]

    def _standing_alone(self, question: str) -> str:
        from ninestory.floors.retrieval.answer import condense, standalone, writes_answers

        rewrite = condense(self._history, question)
        if rewrite is None:
            return question
        if self._options.mode == "extract" or not writes_answers(self._model):
            return f"{next(m.text for m in reversed(self._history) if m.role == 'user')} {question}"
        return standalone(self._say(rewrite, None), question)

    def _with_wishes(self, request: ChatRequest) -> ChatRequest:
        """The request of the passages, generated as the user wishes; where nothing is said, as calmly as it asks for."""
        from ninestory.floors.chat.model import chat_request
        from ninestory.floors.retrieval.answer import calm

        given = chat_request("", self._options.generation)
        return dataclasses.replace(
            given,
            messages=request.messages,
            sampling=calm(given.sampling),
            truncation="auto",
            max_tokens=given.max_tokens or request.max_tokens,
        )

    def _say(self, request: ChatRequest, show: Callable[[str], None] | None) -> str:
        from ninestory.floors.chat import ChatModel
        from ninestory.runtimes.protocol import Text

        if self._chat is None:
            self._chat = ChatModel(self._engine(self._model))
        pieces = []
        for chunk in self._chat.run(request):
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

        folder = self._open.enter_context(ScratchFolder("ninestory-ask-"))
        base, report = create(Home(folder), file.name[:100]), IngestReport()
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
