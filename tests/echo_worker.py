"""A worker process whose engine answers with what it is sent: `python -m tests.echo_worker`, for tests of the wire.

chat: streams `max_tokens` pieces of "x". speak: as many full pieces of sound as the text says. transcribe: the length
and sum of every piece of live input, and at the end of all; the input is taken only while the file `request.language`
names exists, so that a test can hold the engine back.
"""

from __future__ import annotations

import base64
import os
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import orjson

from ninestory.core.errors import Cancelled
from ninestory.core.paths import Home
from ninestory.models.reference import Reference
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes import load
from ninestory.runtimes.protocol import (
    Audio,
    ChatRequest,
    Chunk,
    EngineInfo,
    Feed,
    Finished,
    Request,
    Segment,
    SpeakRequest,
    Text,
    TranscribeRequest,
    chunk_from_dict,
)
from ninestory.serving import windows, worker
from ninestory.serving.supervisor import TimeLimit, WorkerProcess, request_payload

PIECE = bytes(range(256)) * 192  # 49,152 bytes, 64 KB in base64


class EchoEngine:
    def __init__(self, model: ResolvedModel, _: object) -> None:
        self.info = EngineInfo(
            model=model.reference,
            runtime="torch",
            architecture="echo",
            tasks=["chat", "speak", "transcribe"],
            slots=4,
            notes=[str(os.getpid())],
        )

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        if isinstance(request, SpeakRequest):
            yield from self._speak(int(request.text), cancel)
        elif isinstance(request, ChatRequest):
            yield from (Text(text="x") for _ in range(request.max_tokens or 0))
            yield Finished(reason="stop")
        elif isinstance(request, TranscribeRequest) and feed is not None:
            yield from self._hear(feed, Path(request.language or "/"), cancel)

    def close(self) -> None: ...

    def _speak(self, pieces: int, cancel: threading.Event) -> Iterator[Chunk]:
        for _ in range(pieces):
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            yield Audio(pcm16=base64.b64encode(PIECE).decode(), sample_rate=16_000)

    def _hear(self, feed: Feed, gate: Path, cancel: threading.Event) -> Iterator[Chunk]:
        whole, total = 0, 0
        while not gate.exists() and not cancel.is_set():
            time.sleep(0.01)
        for piece in feed:
            whole, total = zlib.crc32(piece, whole), total + len(piece)
            yield Segment(text=str(len(piece)), start=0.0, end=0.0, final=False)
        yield Segment(text=f"{total} {whole}", start=0.0, end=0.0)


async def run(
    process: WorkerProcess,
    request: Request,
    on_end: Callable[[], None],
    limit: TimeLimit | None = None,
    feed: AsyncIterator[bytes] | None = None,
) -> AsyncIterator[Chunk]:
    """A request on one worker, as the pool runs it."""
    written = process.relay(request_payload(request, live=feed is not None), on_end, limit, feed)
    try:
        async for chunk in written:
            yield chunk_from_dict(orjson.loads(chunk))
    finally:
        await written.aclose()  # type: ignore[attr-defined]


def resolve_echo(reference: Reference, home: Home) -> ResolvedModel:
    nbytes = int(os.environ.get("ECHO_WEIGHT_BYTES", "0"))  # weights of a language model, which cards hold
    return ResolvedModel(
        reference=str(reference),
        path=home.root,
        format="safetensors",
        architecture="echo",
        tasks=("chat", "speak", "transcribe") if nbytes else ("speak", "transcribe"),
        context=0,
        total_bytes=nbytes,
    )


if __name__ == "__main__":
    windows.UNREAD_SECONDS = float(os.environ.get("ECHO_UNREAD_SECONDS", "60"))
    worker.resolve = resolve_echo  # type: ignore[assignment]
    load.OPENERS["safetensors", "echo"] = "tests.echo_worker:EchoEngine"
    worker.main()
