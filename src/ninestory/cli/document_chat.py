"""`ninestory chat --docs FOLDER` or `--kb NAME`: a conversation that answers from documents, as GPT4All's LocalDocs.

Floor 1 talks and floor 2 finds; they meet here. A running server does both itself, by its file_search tool.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninestory.cli.app import explain
from ninestory.cli.ask import ask_server, print_sources
from ninestory.cli.conversation import terminal_lines
from ninestory.cli.kb import open_embedder, run_ingest
from ninestory.cli.open_chat import Opener
from ninestory.core.errors import InvalidRequest, NinestoryError, NotFound
from ninestory.core.paths import Home

if TYPE_CHECKING:
    from ninestory.floors.chat import ChatModel
    from ninestory.floors.retrieval.answer import Prepared
    from ninestory.floors.retrieval.embedder import Embedder
    from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
    from ninestory.runtimes.protocol import Message

_API_NAMES = {"max_tokens": "max_output_tokens", "temperature": "temperature", "top_p": "top_p"}


class DocumentConversation:
    """Questions answered from one knowledge base; model and embedder stay loaded between them."""

    def __init__(
        self, base: KnowledgeBase, embedder: Embedder, model: ChatModel, reference: str, options: dict[str, Any]
    ) -> None:
        from ninestory.floors.retrieval.answer import languages_of
        from ninestory.floors.retrieval.table import ChunkReader

        self._base, self._embedder, self._model, self._options = base, embedder, model, options
        self._reader, self._languages = ChunkReader(base), languages_of(reference)
        self._history: list[Message] = []

    def ask(self, question: str) -> Iterator[str]:
        """Pieces of the answer; afterwards `prepared` says what it stands on."""
        from ninestory.floors.chat.model import chat_request
        from ninestory.floors.retrieval.answer import prepare, quoted
        from ninestory.floors.retrieval.hits import SearchOptions
        from ninestory.floors.retrieval.search import search
        from ninestory.runtimes.protocol import Message

        query = self._standing_alone(question)
        vector = self._embedder.query(query)
        self.prepared: Prepared = prepare(
            question,
            search(self._reader, query, vector, SearchOptions()),
            threshold=self._base.get("threshold"),
            context_tokens=self._model.info.context,
            model_languages=self._languages,
            history=self._history,
        )
        text = ""
        if self.prepared.request is not None:
            given = chat_request("", self._options)
            own = self.prepared.request
            request = dataclasses.replace(
                given, messages=own.messages, truncation="auto", max_tokens=given.max_tokens or own.max_tokens
            )
            if given.sampling.temperature is None:
                calm = dataclasses.replace(given.sampling, temperature=own.sampling.temperature)
                request = dataclasses.replace(request, sampling=calm)
            for piece in _texts(self._model, request):
                text += piece
                yield piece
        else:
            text = self.prepared.text
            if self.prepared.reason == "extract":
                vectors = self._embedder.passages([sentence for _, sentence in self.prepared.sentences])
                text = quoted(self.prepared, vector.tolist(), vectors.tolist())
            yield text
        self._history += [Message(role="user", content=question), Message(role="assistant", content=text)]

    def _standing_alone(self, question: str) -> str:
        """The question with what it refers to; where the model does not speak its language, beside the one before."""
        from ninestory.floors.retrieval.answer import condense, language_of, standalone

        rewrite = condense(self._history, question)
        if rewrite is None:
            return question
        if self._languages and language_of(question) not in self._languages:
            before = [message.text for message in self._history if message.role == "user"]
            return f"{before[-1]} {question}"
        return standalone("".join(_texts(self._model, rewrite)), question)


def document_chat(
    opener: Opener, docs: Path | None, kb: str, options: dict[str, Any], question: str | None, as_json: bool
) -> None:
    """Answer one question, or hold a conversation until the end of input or /exit.

    Raises:
        NotFound: no such knowledge base or folder. Unsupported: the extra [retrieval] is not installed.
    """
    from ninestory.floors.retrieval.hits import SearchOptions

    if opener.server:
        sampling = _of_the_api(options)
        name = kb or folder_base(docs or Path())
        turns: list[dict[str, str]] = []

        def answer_there(asked: str) -> None:
            asking = [*turns, {"role": "user", "content": asked}]
            text = ask_server(opener.server, [name], asking, opener.model, SearchOptions().limit, sampling, as_json)
            turns[:] = [*asking, {"role": "assistant", "content": text}]

        _ask_all(question, answer_there)
        return
    name = kb or folder_base(docs or Path())
    from ninestory.floors.retrieval.knowledge_base import open_base

    base = open_base(Home.default(), name)
    with ExitStack() as stack:
        embedder = stack.enter_context(open_embedder(base))
        model = stack.enter_context(opener(opener.model))
        conversation = DocumentConversation(base, embedder, model, opener.model, options)

        def answer(asked: str) -> None:
            text = ""
            for piece in conversation.ask(asked):
                text += piece
                print("" if as_json else piece, end="", flush=True)
            print_sources(conversation.prepared, text, as_json)

        _ask_all(question, answer)


def _of_the_api(options: dict[str, Any]) -> dict[str, Any]:
    """Sampling as `/v1/responses` names it.

    Raises:
        InvalidRequest: an option that it does not have.
    """
    if unknown := sorted(set(options) - set(_API_NAMES)):
        flag = unknown[0].replace("_", "-")
        raise InvalidRequest(
            f"A server answers from documents without --{flag}.",
            hint="Leave it out, or ask in this process, without --server.",
            hint_zh="请去掉该选项，或不带 --server 在本进程内提问。",
            param=unknown[0],
        )
    return {_API_NAMES[name]: value for name, value in options.items()}


def folder_base(folder: Path) -> str:
    """The knowledge base that follows `folder`: made on the first call, brought up to date on every one."""
    from ninestory.floors.retrieval.knowledge_base import create, list_bases

    place = folder.expanduser().resolve()
    if not place.is_dir():
        raise NotFound(f"{folder} is no folder.", hint="Name a folder of documents.", hint_zh="请指定文档目录。")
    name = f"{place.name or 'docs'}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    home = Home.default().ensure()
    base = next((b for b in list_bases(home) if b.name == name), None) or create(home, name)
    report = run_ingest(base, {"folders": [str(place)]}, quiet=False)
    for failure in report["failed"]:
        print(f"not read: {failure['file']}: {failure['message']}", file=sys.stderr)
    print(f"knowledge base {name}: {report['chunks'] or 'no new'} passages", file=sys.stderr)
    return name


def _ask_all(question: str | None, answer: Any) -> None:
    if question is not None:
        answer(question)
        return
    for line in terminal_lines():
        if line == "/exit":
            return
        try:
            if line.strip():
                answer(line)
        except NinestoryError as error:
            explain(error)


def _texts(model: ChatModel, request: Any) -> Iterator[str]:
    from ninestory.runtimes.protocol import Text

    for chunk in model.run(request):
        if isinstance(chunk, Text) and not chunk.reasoning:
            yield chunk.text
