"""The engine interface that all modalities share: requests in, an iterator of chunks out, cancel, live input, close.

An engine is one loaded model. It knows nothing of HTTP, of frames or of who asks: the command line and the library
call it in process, the server and its jobs through a worker, and neither can tell the difference. Requests are checked
by whoever builds them; an engine still refuses by name what it cannot honour (`Unsupported`) and never ignores a field.

Requests and chunks are frozen dataclasses of JSON-able values. A module of one modality registers each kind of request
once, with the classes of chunks that answer it; the wire needs nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self

from ninestory.core.artifacts import ArtifactStore
from ninestory.core.config import Settings
from ninestory.core.paths import Home
from ninestory.core.progress import JobProgress
from ninestory.core.tasks import Task

# --- requests and chunks ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an engine is asked. `kind` is a task, or "tokenize"."""

    kind: ClassVar[str]
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of an engine's answer. `kind` names its class on the wire."""

    kind: str

    def wire(self) -> Any:
        """What is written as JSON to cross a socket; `from_dict` is the way back."""
        return self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a chunk that crossed a socket as JSON. Chunks that hold other dataclasses override this."""
        return cls(**data)


@dataclass(frozen=True)
class RequestKind:
    """One kind of request: its class, and the classes of the chunks that answer it."""

    request: type[Request]
    chunks: tuple[type[Chunk], ...]


REQUEST_KINDS: dict[str, RequestKind] = {}
_CHUNKS: dict[str, type[Chunk]] = {}


def register(request: type[Request], *chunks: type[Chunk]) -> None:
    """Make a kind of request known, with the chunks that answer it.

    Raises:
        ValueError: the kind, or the name of a chunk, already belongs to another class.
    """
    if request.kind in REQUEST_KINDS:
        raise ValueError(f"the kind {request.kind!r} is registered as {REQUEST_KINDS[request.kind].request.__name__}")
    for chunk in chunks:
        name = str(chunk.__dataclass_fields__["kind"].default)
        if _CHUNKS.setdefault(name, chunk) is not chunk:
            raise ValueError(f"the chunk {name!r} is registered as {_CHUNKS[name].__name__}, not {chunk.__name__}")
    REQUEST_KINDS[request.kind] = RequestKind(request, chunks)


def chunk_from_dict(data: Mapping[str, Any]) -> Chunk:
    """Rebuild a chunk that crossed a socket as JSON, by its `kind`."""
    return _CHUNKS[data["kind"]].from_dict(data)


# --- engines ----------------------------------------------------------------------------------------------------

InputType = Literal["text", "image", "audio"]
Feed = Iterator[bytes]  # mono sound as raw little-endian float32, in pieces as it is recorded; ends with the recording


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What an engine is, for `ps`, `/v1/models` and the page.

    Attributes:
        model: the reference as the user wrote it.
        tasks: what it can be asked to do.
        inputs: what its conversations may hold.
        context: tokens of one conversation; None where the model has no such limit or does not tell it.
        slots: requests worked on together; None = one.
        template: id of the prompt template in use, from `template_source` ("catalogue", "checkpoint", "--template",
            "adapter").
        tokenizes: whether it also answers TokenizeRequests.
        notes: choices made at load, for the log and `show`.
    """

    model: str
    runtime: Literal["llamacpp", "torch", "onnx", "remote", "vllm"]
    architecture: str
    tasks: list[Task]
    inputs: list[InputType] = field(default_factory=lambda: ["text"])
    tokenizes: bool = False
    context: int | None = None
    slots: int | None = None
    template: str = ""
    template_source: str = ""
    adapters: list[str] = field(default_factory=list)
    dtype: str = ""
    device: str = "cpu"
    threads: int = 1
    notes: list[str] = field(default_factory=list)


class Engine(Protocol):
    """One loaded model. `run` may be called from many threads at once; each call is one request."""

    info: EngineInfo

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        """Yield chunks until the request is done.

        Setting `cancel` frees the request's slot within two decode steps (in prefill: one batch) and raises
        `Cancelled` out of the iterator. Closing the iterator does the same.

        Args:
            feed: sound that is still being recorded, for requests that take it.

        Raises:
            Unsupported: a request or field this engine cannot honour, by name.
            ContextOverflow: with both numbers, when truncation is "disabled".
        """
        ...

    def close(self) -> None:
        """Free everything. Idempotent."""
        ...


class EngineProvider(Protocol):
    """Where floors and jobs get engines from; they cannot tell a model in process from one in a worker."""

    def get(
        self, reference: str, task: Task, *, workers: int = 1, overrides: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Engine]:
        """Lend the engine of a model for the length of a `with` block.

        Args:
            task: what it will be asked; must be one of the model's.
            workers: processes that share the requests, reserved together.
            overrides: fields of RuntimeSettings that differ from the settings in force.

        Raises:
            NotFound: no such model here. Unsupported: it has no such task. DoesNotFit: by the memory plan.
        """
        ...


# --- jobs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """What a job's handler works with; it takes nothing else from its surroundings.

    Attributes:
        settings: those in force where the job runs, flags of `serve` included.
        engines: lends models.
        artifacts: records what the models made.
    """

    home: Home
    settings: Settings
    progress: JobProgress
    engines: EngineProvider
    artifacts: ArtifactStore


class JobHandler(Protocol):
    """What a kind of job does."""

    def __call__(self, params: dict[str, Any], context: JobContext, /) -> dict[str, Any] | None:
        """Do the work and return its result, both plain JSON.

        It may be killed at any moment and is then called again with the same parameters; `context.progress.resume`
        is its last checkpoint.
        """
        ...
