"""The job process's end: an `EngineProvider` that lends the models of the gateway's pool."""

from __future__ import annotations

import itertools
import queue
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson

from ninestory.core.errors import Cancelled, NinestoryError, Unavailable, from_dict
from ninestory.core.tasks import Task
from ninestory.runtimes.dispatch import refuse_feed
from ninestory.runtimes.protocol import Chunk, Engine, EngineInfo, Feed, Request, chunk_from_dict
from ninestory.serving.frames import FrameKind, FrameProtocol, encode, encode_credit
from ninestory.serving.job_broker import REQUEST_HEAD
from ninestory.serving.supervisor import request_payload
from ninestory.serving.windows import CREDIT_STEP

_CANCEL_POLL_SECONDS = 0.05  # between two looks at `cancel` while nothing comes


class JobEngines:
    """Models over the socket that the job process inherited. Used by any number of threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()
        self._ids = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[tuple[FrameKind, bytes]]] = {}
        self._lost = threading.Event()
        threading.Thread(target=self._read, name="gateway", daemon=True).start()

    @contextmanager
    def get(
        self, reference: str, task: Task, *, workers: int = 1, overrides: Mapping[str, Any] | None = None
    ) -> Iterator[Engine]:
        """Lend the engine of a model; see `EngineProvider`."""
        asked = {"model": reference, "task": task, "workers": workers, "overrides": dict(overrides or {})}
        with self._reserved(asked) as (lease, granted):
            yield PooledEngine(self, lease, EngineInfo(**granted["info"]))

    @contextmanager
    def reserve_memory(self, needed: Mapping[str, int], *, force: bool = False) -> Iterator[None]:
        """Have the server count memory that this process will take, as long as the block runs.

        Args:
            needed: bytes by device; an empty one asks for nothing.
            force: count it although it does not fit.

        Raises:
            DoesNotFit: beside what is in use there.
        """
        if not needed:
            yield
            return
        with self._reserved({"needed": dict(needed), "force": force}):
            yield

    @contextmanager
    def _reserved(self, asked: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Reserve what is asked for; the number of the lease and what was granted."""
        with self._opened(FrameKind.RESERVE, orjson.dumps(asked)) as (lease, answers):
            _, payload = _checked(answers.get())
            try:
                yield lease, orjson.loads(payload)
            finally:
                self.send(encode(lease, FrameKind.RELEASE))
                answers.get()

    def run(self, lease: int, request: Request, cancel: threading.Event) -> Iterator[Chunk]:
        """Run a request on a model that was reserved."""
        kind = request.kind.encode()
        payload = REQUEST_HEAD.pack(lease, len(kind)) + kind + request_payload(request)
        taken, ended = 0, False
        with self._opened(FrameKind.REQUEST, payload) as (request_id, answers):
            try:
                while True:
                    try:
                        frame, body = answers.get(timeout=_CANCEL_POLL_SECONDS)
                    except queue.Empty:
                        frame = None
                    if cancel.is_set():
                        raise Cancelled("The request was cancelled.")
                    if frame is None:
                        continue
                    ended = frame is not FrameKind.CHUNK
                    _checked((frame, body))
                    if ended:
                        return
                    taken += len(body)
                    if taken >= CREDIT_STEP:
                        self.send(encode_credit(request_id, taken))
                        taken = 0
                    yield chunk_from_dict(orjson.loads(body))
            finally:
                if not ended:
                    self.send(encode(request_id, FrameKind.CANCEL))

    def send(self, frame: bytes) -> None:
        """From any thread; what is sent to a gateway that is gone is lost with it."""
        try:
            with self._sending:
                self._socket.sendall(frame)
        except OSError:
            self._end()

    @contextmanager
    def _opened(
        self, kind: FrameKind, payload: bytes
    ) -> Iterator[tuple[int, queue.SimpleQueue[tuple[FrameKind, bytes]]]]:
        """Send a frame under a number of its own; the number, and where its answers come."""
        number = next(self._ids)
        frame = encode(number, kind, payload)
        answers = self._answers[number] = queue.SimpleQueue()
        self.send(frame)
        if self._lost.is_set():
            answers.put(_gone())
        try:
            yield number, answers
        finally:
            self._answers.pop(number, None)

    def _read(self) -> None:
        protocol = FrameProtocol(self._on_frame, lambda: None)
        try:
            while data := self._socket.recv(1 << 16):
                protocol.data_received(data)
        except OSError:
            pass
        self._end()

    def _on_frame(self, number: int, kind: FrameKind, payload: bytes) -> None:
        if answers := self._answers.get(number):
            answers.put((kind, payload))

    def _end(self) -> None:
        self._lost.set()
        for answers in list(self._answers.values()):
            answers.put(_gone())


class PooledEngine:
    """A reserved model, as an engine like any other."""

    def __init__(self, engines: JobEngines, lease: int, info: EngineInfo) -> None:
        self.info = info
        self._engines, self._lease = engines, lease

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        if feed is not None:
            refuse_feed(self.info)
        return self._engines.run(self._lease, request, cancel)

    def close(self) -> None:
        """The pool ends the worker when nobody needs it."""


def _checked(answer: tuple[FrameKind, bytes]) -> tuple[FrameKind, bytes]:
    """Raises the error that an answer holds."""
    if answer[0] is FrameKind.ERROR:
        raise from_dict(orjson.loads(answer[1]))
    return answer


def _gone() -> tuple[FrameKind, bytes]:
    error: NinestoryError = Unavailable(
        "The server ended while a job used its models.",
        hint="The job goes on when the server is started again.",
        hint_zh="服务器重新启动后任务会继续。",
    )
    return FrameKind.ERROR, orjson.dumps(error.as_dict())
