"""Questions to documents in this process: the embedding, reranking and chat models stay loaded between two of them."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ninestory.core.errors import InvalidRequest, from_dict
from ninestory.core.paths import Home
from ninestory.core.scratch import ScratchFolder

if TYPE_CHECKING:
    from ninestory.floors.chat import ChatModel
    from ninestory.floors.retrieval import AnswerOptions, DocumentSession, KnowledgeBase, Prepared
    from ninestory.runtimes.protocol import ChatRequest, Message

_CONTEXT = 4096


class DocumentConversation:
    """A conversation with knowledge bases, or with one file that is forgotten at the end.

    Args:
        generation: max_tokens, temperature …, as `ChatModel.chat` takes them.
        chat: the loaded model; None loads `model` when an answer first needs it.
    """

    def __init__(
        self,
        names: Sequence[str],
        model: str,
        options: AnswerOptions,
        *,
        generation: dict[str, Any] | None = None,
        file: Path | None = None,
        chat: ChatModel | None = None,
    ) -> None:
        self._names, self._file, self._model, self._options = names, file, model, options
        self._generation, self._chat = generation or {}, chat
        self._history: list[Message] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> DocumentConversation:
        from ninestory.core.config import load_settings
        from ninestory.floors.retrieval import open_base
        from ninestory.runtimes.load import LocalEngines

        self._settings = load_settings().settings.runtime
        loaded = {self._model: self._chat.engine} if self._chat else {}
        self._engines = self._open.enter_context(LocalEngines(Home.default(), self._settings, loaded))
        if self._file is None:
            self._bases = [self._open.enter_context(open_base(Home.default(), name)) for name in self._names]
        else:
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
        from ninestory.runtimes.protocol import Message

        answer = self._session(limit).prepare(question, self._history)
        text = answer.text
        if text is None:
            assert answer.prepared.request is not None
            text = self._say(self._with_wishes(answer.prepared.request), show)
        self._history += [Message(role="user", content=question), Message(role="assistant", content=text)]
        return answer.prepared, text

    def search_for_tool(self, question: str, limit: int) -> str:
        """The passages found, for a client that reads text."""
        from ninestory.floors.retrieval import language_of, place_of

        hits = self._session(limit).find(question)
        language = language_of(question)
        return "\n\n".join(f"[{n}] {place_of(hit, language)}\n{hit.text}" for n, hit in enumerate(hits, 1))

    def ask_for_tool(self, question: str, limit: int) -> str:
        """An answer with its sources below it; questions are independent of one another."""
        from ninestory.floors.retrieval import language_of, place_of

        self._history = []
        prepared, text = self.answer(question, None, limit)
        sources = [f"[{n}] {place_of(hit, language_of(question))}" for n, hit in enumerate(prepared.passages, 1)]
        return "\n".join([text, *([prepared.notice] if prepared.notice else []), *sources])

    def _session(self, limit: int | None) -> DocumentSession:
        from ninestory.floors.retrieval import DocumentSession

        options = self._options
        if limit is not None:
            options = dataclasses.replace(options, search=dataclasses.replace(options.search, limit=limit))
        return DocumentSession(self._bases, self._engines, self._model, options, context_tokens=self._context)

    def _context(self) -> int:
        """Tokens that passages, history and answer share."""
        from ninestory.models.resolve import resolve

        if self._chat is not None:
            return self._chat.info.context or _CONTEXT
        return self._settings.context or min(resolve(self._model, Home.default()).context or _CONTEXT, _CONTEXT)

    def _with_wishes(self, request: ChatRequest) -> ChatRequest:
        """The request of the passages, generated as the user wishes; where nothing is said, as calmly as it asks for."""
        from ninestory.floors.chat import chat_request
        from ninestory.floors.retrieval import calm

        given = chat_request("", self._generation)
        return dataclasses.replace(
            given,
            messages=request.messages,
            sampling=calm(given.sampling),
            truncation="auto",
            max_tokens=given.max_tokens or request.max_tokens,
        )

    def _say(self, request: ChatRequest, show: Callable[[str], None] | None) -> str:
        from ninestory.floors.retrieval import sent_to
        from ninestory.runtimes.protocol import Text

        pieces = []
        with self._engines.get(self._model, "chat") as engine:
            for chunk in engine.run(sent_to(request, self._model), threading.Event()):
                if isinstance(chunk, Text) and not chunk.reasoning:
                    pieces.append(chunk.text)
                    if show:
                        show(chunk.text)
        return "".join(pieces)

    def _temporary(self, file: Path) -> KnowledgeBase:
        """A knowledge base of one file, in a folder that goes with this session."""
        from ninestory.core.progress import Silent
        from ninestory.floors.retrieval import Embedder, IngestReport, add_paths
        from ninestory.floors.retrieval import create_base as create
        from ninestory.floors.retrieval import ingest_documents as ingest

        folder = self._open.enter_context(ScratchFolder("ninestory-ask-"))
        base, report = create(Home(folder), file.name[:100]), IngestReport()
        self._open.callback(base.close)
        add_paths(base, [file], report)
        with self._engines.get(base.model, "embedding") as engine:
            ingest(base, Embedder(engine), Silent(), report)
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
