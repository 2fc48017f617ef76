"""A chat model over an engine: what `ninestory.load` gives."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from ninestory.core.errors import InvalidRequest
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    Constraint,
    EmbeddingRequest,
    Embeddings,
    Engine,
    EngineInfo,
    Finished,
    Generation,
    Message,
    Sampling,
    Text,
    TokenizeRequest,
    Tokens,
    Usage,
)

_SAMPLING = {f.name for f in dataclasses.fields(Sampling)}
_GENERATION = {f.name for f in dataclasses.fields(Generation)} - {"sampling", "constraint", "n", "request_id"}
Conversation = str | Sequence[Message | dict[str, Any]]


@dataclass(frozen=True)
class Reply:
    """An answer. `str(reply)` is its text; a notebook shows it as Markdown."""

    text: str
    reasoning: str = ""
    finish_reason: str = "stop"
    usage: Usage | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


class ChatModel:
    """A loaded model; use it as a context manager, so that its memory is given back."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def engine(self) -> Engine:
        """What answers; closed with this model."""
        return self._engine

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def __enter__(self) -> ChatModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model. Idempotent."""
        self._engine.close()

    @overload
    def chat(self, messages: Conversation, *, stream: Literal[False] = False, **generation: Any) -> Reply: ...
    @overload
    def chat(self, messages: Conversation, *, stream: Literal[True], **generation: Any) -> Iterator[str]: ...
    def chat(self, messages: Conversation, *, stream: bool = False, **generation: Any) -> Reply | Iterator[str]:
        """Answer a question or a conversation.

        Args:
            messages: a question, or `Message`s / OpenAI-shaped dicts.
            stream: yield pieces of text as they come instead of one `Reply`.
            generation: max_tokens, stop, temperature, top_p, top_k, min_p, seed, json_schema, …

        Leaving a stream early (break, or closing the iterator) stops the model.

        Raises:
            InvalidRequest: an unknown option or a message that is none. ContextOverflow: with both numbers.

        >>> import ninestory as ns
        >>> with ns.load("starter:smollm2-135m-instruct", threads=1, slots=1, context=512) as model:
        ...     reply = model.chat("What is the capital of France?", max_tokens=12, temperature=0)
        ...     pieces = list(model.chat("What is the capital of France?", stream=True, max_tokens=12, temperature=0))
        >>> "".join(pieces) == str(reply), reply.finish_reason, reply.usage.completion_tokens
        (True, 'length', 12)
        """
        cancel = threading.Event()
        chunks = self._engine.run(chat_request(messages, generation), cancel)
        return _pieces(chunks, cancel) if stream else _reply(chunks)

    def complete(self, prompt: str, **generation: Any) -> Reply:
        """Continue raw text, without any chat template."""
        return _reply(self._engine.run(CompletionRequest(prompt=prompt, **_options(generation)), threading.Event()))

    def embed(self, texts: Sequence[str], role: Literal["", "query", "passage"] = "") -> list[list[float]]:
        """Unit vectors of texts (embedding models only)."""
        for chunk in self._engine.run(EmbeddingRequest(inputs=list(texts), role=role), threading.Event()):
            if isinstance(chunk, Embeddings):
                return chunk.vectors
        return []

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        for chunk in self._engine.run(TokenizeRequest(text=text), threading.Event()):
            if isinstance(chunk, Tokens):
                return chunk.ids
        return []

    def chat_session(self, system: str = "") -> ChatSession:
        """A conversation that remembers: `with model.chat_session() as chat: chat.ask("…")`."""
        return ChatSession(self, system)

    def run(self, request: Any, cancel: threading.Event | None = None) -> Iterator[Chunk]:
        """The engine's own protocol, for callers that want every chunk."""
        return self._engine.run(request, cancel or threading.Event())


class ChatSession:
    """A conversation with its history."""

    def __init__(self, model: ChatModel, system: str = "") -> None:
        self._model = model
        self.messages: list[Message] = [Message(role="system", content=system)] if system else []

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, text: str, **generation: Any) -> Reply:
        """Ask; question and answer are remembered together, so a failed question leaves no trace."""
        question = Message(role="user", content=text)
        reply = self._model.chat([*self.messages, question], **generation)
        self.messages += [question, Message(role="assistant", content=reply.text)]
        return reply


def chat_request(messages: Conversation, generation: dict[str, Any]) -> ChatRequest:
    """An engine request of a conversation and keyword options (max_tokens, temperature, seed, …)."""
    return ChatRequest(messages=_messages(messages), **_options(generation))


def _messages(given: Conversation) -> list[Message]:
    if isinstance(given, str):
        return [Message(role="user", content=given)]
    try:
        return [m if isinstance(m, Message) else Message(**m) for m in given]
    except TypeError as error:
        raise InvalidRequest(
            f"A message is not of the form role and content: {error}.",
            hint='Give dicts like {"role": "user", "content": "…"}.',
            hint_zh='请使用 {"role": "user", "content": "…"} 这样的字典。',
            param="messages",
        ) from None


def _options(generation: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments sorted into the request's own fields, its sampling and its constraint."""
    unknown = set(generation) - _SAMPLING - _GENERATION - {"json_schema", "choices"}
    if unknown:
        raise InvalidRequest(
            f"Unknown generation option {sorted(unknown)[0]!r}.",
            hint=f"Known are: {', '.join(sorted(_SAMPLING | _GENERATION | {'json_schema', 'choices'}))}.",
        )
    options: dict[str, Any] = {k: v for k, v in generation.items() if k in _GENERATION}
    options["sampling"] = Sampling(**{k: v for k, v in generation.items() if k in _SAMPLING})
    if "json_schema" in generation or "choices" in generation:
        options["constraint"] = Constraint(json_schema=generation.get("json_schema"), choices=generation.get("choices"))
    return options


def _pieces(chunks: Iterator[Chunk], cancel: threading.Event) -> Iterator[str]:
    try:
        for chunk in chunks:
            if isinstance(chunk, Text) and not chunk.reasoning:
                yield chunk.text
    finally:
        cancel.set()  # a reader that left early must not keep the model busy


def _reply(chunks: Iterator[Chunk]) -> Reply:
    text, reasoning, finish, usage = "", "", "stop", None
    for chunk in chunks:
        if isinstance(chunk, Text):
            text, reasoning = (text, reasoning + chunk.text) if chunk.reasoning else (text + chunk.text, reasoning)
        elif isinstance(chunk, Finished):
            finish = chunk.reason
        elif isinstance(chunk, Usage):
            usage = chunk
    return Reply(text, reasoning, finish, usage)
