"""Text: what is asked of language, embedding and reranking models, and how they answer."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

from ninestory.core.errors import Unsupported
from ninestory.core.media import MediaRef
from ninestory.runtimes.protocol.common import Chunk, Request, register

# --- requests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Part:
    """One piece of a message's content: a text, or a picture or sound with its media type ("image/png").

    Raises:
        ValueError: text and media are both set, or neither; or a medium has no media type.
    """

    text: str | None = None
    media: MediaRef | None = None
    media_type: str = ""

    def __post_init__(self) -> None:
        if (self.text is None) == (self.media is None) or bool(self.media_type) != (self.media is not None):
            raise ValueError("a part is a text, or a medium and its media type")


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    id: str
    name: str
    arguments: str  # JSON text, as the model wrote it


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. `content` is text, or parts; None only beside `tool_calls`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    reasoning: str | None = None  # the assistant's thinking, apart from what it said
    tool_calls: list[ToolCall] = field(default_factory=list)
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one string.

        Raises:
            Unsupported: the content holds a picture or a sound, which the caller would lose.
        """
        if isinstance(self.content, str):
            return self.content
        if media := self.media:
            raise Unsupported(
                f"The content of a {self.role} message holds {media[0].media_type}; only text is read here.",
                hint="Remove it, or name a model that takes it.",
                hint_zh="请移除该内容，或指定支持它的模型。",
                param="messages",
            )
        return "".join(part.text or "" for part in self.content or [])

    @property
    def media(self) -> list[Part]:
        """The parts that are not text."""
        return [] if isinstance(self.content, str) else [part for part in self.content or [] if part.media]


@dataclass(frozen=True, kw_only=True)
class ToolSpec:
    """A tool the model may call: the description, not the function (the caller runs it)."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. None = the model's own default (catalogue, then the checkpoint's, then ours).

    Order of application: penalties on ids seen in the answer → logit_bias → temperature → top-k → top-p → min-p →
    one uniform draw a token from the request's own generator (seed; drawn fresh and reported when None).
    """

    temperature: float | None = None  # 0 = greedy
    top_k: int | None = None  # 0 = off
    top_p: float | None = None  # 1 = off
    min_p: float | None = None  # 0 = off
    repetition_penalty: float | None = None  # 1 = off; divides/multiplies logits of seen ids (CTRL)
    presence_penalty: float = 0.0  # subtracted once from logits of generated ids
    frequency_penalty: float = 0.0  # subtracted once a count
    seed: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)  # token id → added logit


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What the text must match. At most one is set."""

    json_schema: dict[str, Any] | None = None
    choices: list[str] | None = None  # exactly one of these strings
    grammar: str | None = None  # GBNF (llama.cpp) or Lark (llguidance); engines refuse the form they lack


@dataclass(frozen=True, kw_only=True)
class Generation(Request):
    """What chat and completion have in common."""

    max_tokens: int | None = None  # None = up to the context
    stop: list[str] = field(default_factory=list)
    n: int = 1
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    logprobs: int | None = None  # None = none; k ≥ 0 = of each token, with its k best alternatives
    adapters: dict[str, float] = field(default_factory=dict)  # adapter name → weight, of those loaded
    truncation: Literal["disabled", "auto"] = "disabled"  # auto drops the oldest turns (system kept)


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Generation):
    """Answer a conversation. With `continue_final_message` the last (assistant) message is carried on."""

    kind: ClassVar[str] = "chat"
    messages: list[Message]
    tools: list[ToolSpec] = field(default_factory=list)
    tool_choice: str = "auto"  # "none", "auto", "required" or a tool's name
    parallel_tool_calls: bool | None = None  # True asks for several calls in one answer; None = the model's habit
    continue_final_message: bool = False
    template: str | None = None  # a template id or "checkpoint"; None = the model's
    thinking: bool | None = None  # switch a hybrid model's thinking; None = its default


@dataclass(frozen=True, kw_only=True)
class CompletionRequest(Generation):
    """Continue raw text (or ids). User text never produces special tokens.

    With `echo` the prompt's text comes first; with `logprobs` too, so do its tokens' log-probabilities.
    """

    kind: ClassVar[str] = "completion"
    prompt: str | list[int]
    echo: bool = False


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest(Request):
    """Unit vectors of texts. `role` adds what the model wants before a query or a passage ("" = nothing)."""

    kind: ClassVar[str] = "embedding"
    inputs: list[str] | list[list[int]]
    role: Literal["", "query", "passage"] = ""


@dataclass(frozen=True, kw_only=True)
class TokenizeRequest(Request):
    """Ids of a text, or of a conversation rendered by the model's template (counting before asking)."""

    kind: ClassVar[str] = "tokenize"
    text: str | None = None
    messages: list[Message] | None = None
    template: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreItem:
    """One context and the texts that may follow it; token ids are taken as they are."""

    context: str | list[int]
    continuations: list[str] | list[list[int]]


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(Request):
    """Log-probability of each token of each continuation (perplexity, multiple choice, judging). Items are independent.

    A text is tokenised together with its context and cut where the context alone ends (as lm-evaluation-harness does);
    spaces at the end of a context belong to what follows.
    """

    kind: ClassVar[str] = "score"
    items: list[ScoreItem]


@dataclass(frozen=True, kw_only=True)
class RerankRequest(Request):
    """How well each document answers the query: by a cross-encoder, or by late interaction of token vectors."""

    kind: ClassVar[str] = "rerank"
    query: str
    documents: list[str]


# --- chunks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """One token, its log-probability, and the likeliest tokens in its place."""

    token: str
    logprob: float | None  # None: a prompt's first token, which nothing foretells; unknown to the engine
    bytes: list[int]
    text_offset: int = 0  # completions: index, in the choice's text, of the character that holds its first byte
    top: list[TokenLogprob] = field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild one that crossed a socket as JSON."""
        return cls(**{**data, "top": [cls.from_dict(entry) for entry in data["top"]]})


@dataclass(frozen=True, kw_only=True)
class Started(Chunk):
    """First chunk of a generation: what was chosen for it."""

    kind: str = "started"
    seed: int | None  # None: a remote endpoint drew it and does not tell
    template: str = ""
    dropped_messages: int = 0  # by truncation="auto"


@dataclass(frozen=True, kw_only=True)
class Prefill(Chunk):
    """Prompt tokens processed so far, of `total`."""

    kind: str = "prefill"
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Text(Chunk):
    """More text of choice `index`; `reasoning` marks thinking. Never ends inside a character or a possible stop."""

    kind: str = "text"
    index: int = 0
    text: str
    reasoning: bool = False
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        if not data["logprobs"]:  # nearly always; this runs once a token
            return cls(**data)
        return cls(**{**data, "logprobs": [TokenLogprob.from_dict(entry) for entry in data["logprobs"]]})


@dataclass(frozen=True, kw_only=True)
class ToolCallDelta(Chunk):
    """More of tool call `position` of choice `index`; id and name come with the first piece."""

    kind: str = "tool_call"
    index: int = 0
    position: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, kw_only=True)
class Finished(Chunk):
    """Choice `index` ended."""

    kind: str = "finished"
    index: int = 0
    reason: Literal["stop", "length", "tool_calls", "content_filter"]
    stop: str | None = None  # the stop string met


@dataclass(frozen=True, kw_only=True)
class Usage(Chunk):
    """Last chunk of a generation. Seconds are wall time."""

    kind: str = "usage"
    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def after(self, spent: Usage) -> Usage:
        """Of an answer given in two passes: this one's prompt, both passes' tokens and seconds."""
        return replace(
            self,
            completion_tokens=self.completion_tokens + spent.completion_tokens,
            prefill_seconds=self.prefill_seconds + spent.prefill_seconds,
            decode_seconds=self.decode_seconds + spent.decode_seconds,
        )

    def beside(self, other: Usage) -> Usage:
        """Of two requests together: all tokens and seconds of both."""
        counts = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "kind"}
        return replace(self, **counts)


@dataclass(frozen=True, kw_only=True)
class Embeddings(Chunk):
    """One vector a text. They cross a socket as float32 in base64: a third of the bytes of figures, and exact."""

    kind: str = "embeddings"
    vectors: list[list[float]]
    prompt_tokens: int

    def wire(self) -> dict[str, Any]:
        flat = array("f", [value for vector in self.vectors for value in vector])
        return {
            "kind": self.kind,
            "count": len(self.vectors),
            "float32": base64.b64encode(flat.tobytes()).decode("ascii"),
            "prompt_tokens": self.prompt_tokens,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        flat = array("f")
        flat.frombytes(base64.b64decode(data["float32"]))
        size = len(flat) // max(1, data["count"])
        vectors = [flat[size * i : size * (i + 1)].tolist() for i in range(data["count"])]
        return cls(vectors=vectors, prompt_tokens=data["prompt_tokens"])


@dataclass(frozen=True, kw_only=True)
class Tokens(Chunk):
    kind: str = "tokens"
    ids: list[int]
    pieces: list[str]


@dataclass(frozen=True, kw_only=True)
class Scores(Chunk):
    """Answer to a ScoreRequest.

    Attributes:
        values: natural log-probabilities, [item][continuation][token].
        greedy: whether each token was the model's likeliest, all through the continuation, [item][continuation].
        prompt_tokens: of all contexts and continuations as they were read; `cached_tokens` of them were not computed.
    """

    kind: str = "scores"
    values: list[list[list[float]]]
    greedy: list[list[bool]]
    prompt_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Relevance(Chunk):
    """One relevance score per document or text, higher is better; comparable only within one model."""

    kind: str = "relevance"
    values: list[float]
    prompt_tokens: int


ANSWER_CHUNKS = (Started, Prefill, Text, ToolCallDelta, Finished, Usage)
register(ChatRequest, *ANSWER_CHUNKS)
register(CompletionRequest, *ANSWER_CHUNKS)
register(EmbeddingRequest, Embeddings)
register(TokenizeRequest, Tokens)
register(ScoreRequest, Scores)
register(RerankRequest, Relevance)
