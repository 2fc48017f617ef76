"""What every engine takes and gives: typed requests in, an iterator of typed chunks out, cancel, close.

An engine is one loaded model. It knows nothing of HTTP, of JSON frames or of who asks: the command line and the
library call it in process, the server through a worker (`serving/worker.py`), and neither can tell the difference.
Requests are checked by whoever builds them (the API's schemas, the CLI's flags); an engine still refuses by name
what it cannot honour (`Unsupported`) and never ignores a field.

All classes are plain frozen dataclasses of JSON-able values, so a frame is `orjson.dumps(chunk)`; chunks carry a
`kind` for the way back (`chunk_from_dict`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

# --- requests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Part:
    """One piece of a message's content. Text now; images and sound when their floors come."""

    type: Literal["text"]
    text: str


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
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or [])


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
class Generation:
    """What chat and completion have in common."""

    max_tokens: int | None = None  # None = up to the context
    stop: list[str] = field(default_factory=list)
    n: int = 1
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    logprobs: int | None = None  # None = none; k ≥ 0 = of each token, with its k best alternatives
    adapters: dict[str, float] = field(default_factory=dict)  # adapter name → weight, of those loaded
    truncation: Literal["disabled", "auto"] = "disabled"  # auto drops the oldest turns (system kept)
    request_id: str = ""


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
class EmbeddingRequest:
    """Unit vectors of texts. `role` adds what the model wants before a query or a passage ("" = nothing)."""

    kind: ClassVar[str] = "embedding"
    inputs: list[str] | list[list[int]]
    role: Literal["", "query", "passage"] = ""
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class TokenizeRequest:
    """Ids of a text, or of a conversation rendered by the model's template (counting before asking)."""

    kind: ClassVar[str] = "tokenize"
    text: str | None = None
    messages: list[Message] | None = None
    template: str | None = None
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Log-probability of each token of `text` after `context` (perplexity, judging, reranking by a causal model)."""

    kind: ClassVar[str] = "score"
    context: str
    text: str
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class RerankRequest:
    """How well each document answers the query: by a cross-encoder, or by late interaction of token vectors."""

    kind: ClassVar[str] = "rerank"
    query: str
    documents: list[str]
    request_id: str = ""


Request = ChatRequest | CompletionRequest | EmbeddingRequest | TokenizeRequest | ScoreRequest | RerankRequest
REQUESTS: dict[str, type] = {
    cls.kind: cls
    for cls in (ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest, ScoreRequest, RerankRequest)
}

# --- chunks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    token: str
    logprob: float | None  # None: a prompt's first token, which nothing foretells; unknown to the engine
    bytes: list[int]
    text_offset: int = 0  # completions: index, in the choice's text, of the character that holds its first byte
    top: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Started:
    """First chunk of a generation: what was chosen for it."""

    kind: str = "started"
    seed: int | None  # None: a remote endpoint drew it and does not tell
    template: str = ""
    dropped_messages: int = 0  # by truncation="auto"


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Prompt tokens processed so far, of `total`."""

    kind: str = "prefill"
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Text:
    """More text of choice `index`; `reasoning` marks thinking. Never ends inside a character or a possible stop."""

    kind: str = "text"
    index: int = 0
    text: str
    reasoning: bool = False
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ToolCallDelta:
    """More of tool call `position` of choice `index`; id and name come with the first piece."""

    kind: str = "tool_call"
    index: int = 0
    position: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Choice `index` ended."""

    kind: str = "finished"
    index: int = 0
    reason: Literal["stop", "length", "tool_calls", "content_filter"]
    stop: str | None = None  # the stop string met


@dataclass(frozen=True, kw_only=True)
class Usage:
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


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    kind: str = "embeddings"
    vectors: list[list[float]]
    prompt_tokens: int


@dataclass(frozen=True, kw_only=True)
class Tokens:
    kind: str = "tokens"
    ids: list[int]
    pieces: list[str]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """`values`: the log-probability of each token of the text."""

    kind: str = "scores"
    values: list[float]
    prompt_tokens: int


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """`values`: one a document, higher is better; of one model comparable, of two not."""

    kind: str = "relevance"
    values: list[float]
    prompt_tokens: int


Chunk = Started | Prefill | Text | ToolCallDelta | Finished | Usage | Embeddings | Tokens | Scores | Relevance

_CHUNKS: dict[str, type] = {
    "started": Started,
    "prefill": Prefill,
    "text": Text,
    "tool_call": ToolCallDelta,
    "finished": Finished,
    "usage": Usage,
    "embeddings": Embeddings,
    "tokens": Tokens,
    "scores": Scores,
    "relevance": Relevance,
}


def chunk_from_dict(data: dict[str, Any]) -> Chunk:
    """Rebuild a chunk that crossed a socket as JSON."""
    if data["kind"] == "text" and data["logprobs"]:
        data = {**data, "logprobs": [_logprob(entry) for entry in data["logprobs"]]}
    return _CHUNKS[data["kind"]](**data)


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    return TokenLogprob(**{**entry, "top": [_logprob(t) for t in entry["top"]]})


# --- the engine -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What an engine is, for `ps`, `/v1/models` and the page."""

    model: str  # the reference as the user wrote it
    runtime: Literal["llamacpp", "torch", "onnx", "remote", "vllm"]
    architecture: str
    tasks: list[str]  # kinds of request it takes
    context: int  # tokens of one conversation
    slots: int  # requests decoded together
    template: str = ""  # id of the template in use
    template_source: str = ""  # "catalogue", "checkpoint", "--template", "adapter"
    adapters: list[str] = field(default_factory=list)
    dtype: str = ""
    device: str = "cpu"
    threads: int = 1
    notes: list[str] = field(default_factory=list)  # choices made at load, for the log and `show`


class Engine(Protocol):
    """One loaded model. `run` may be called from many threads at once; each call is one request."""

    info: EngineInfo

    def run(self, request: Request, cancel: threading.Event) -> Iterator[Chunk]:
        """Yield chunks until the request is done.

        Setting `cancel` frees the request's slot within two decode steps (in prefill: one batch) and raises
        `Cancelled` out of the iterator. Closing the iterator does the same.

        Raises:
            Unsupported: a request or field this engine cannot honour, by name.
            ContextOverflow: with both numbers, when truncation is "disabled".
        """
        ...

    def close(self) -> None:
        """Free everything. Idempotent."""
        ...
