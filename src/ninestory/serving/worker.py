"""One model in a process of its own: `python -m ninestory.serving.worker --fd N --parent PID`.

Started by `serving/supervisor.py` with one end of a socket pair. Resolves the model, says what it will need, loads it
when told to, and runs each request in a thread of its own. Dies with the gateway: by the parent-death signal, and by
the end of the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pydantic

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, NinestoryError
from ninestory.core.paths import Home
from ninestory.core.process import die_with_parent, resident_bytes
from ninestory.models.reference import parse_reference
from ninestory.models.resolve import resolve
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.protocol import REQUEST_KINDS, Engine
from ninestory.serving.frames import FrameKind, FrameProtocol, credited_bytes, encode, encode_credit
from ninestory.serving.windows import ThreadWindow

_REQUESTS: dict[str, pydantic.TypeAdapter[Any]] = {
    kind: pydantic.TypeAdapter(registered.request) for kind, registered in REQUEST_KINDS.items()
}


class LiveInput:
    """The feed of one request: pieces as they arrive, taken by the engine's thread."""

    def __init__(self, cancel: threading.Event, taken: Callable[[int], None]) -> None:
        self._cancel, self._taken = cancel, taken
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def put(self, piece: bytes | None) -> None:
        """Add a piece; None ends the feed, or wakes the engine to see that it is cancelled."""
        self._pieces.put(piece)

    def __iter__(self) -> Iterator[bytes]:
        """The pieces. Raises `Cancelled` when the request is."""
        while True:
            piece = self._pieces.get()
            if self._cancel.is_set():
                raise Cancelled("The request was cancelled.")
            if piece is None:
                return
            self._taken(len(piece))
            yield piece


class _Running:
    """One request in this worker."""

    def __init__(self, feed_taken: Callable[[int], None]) -> None:
        self.cancel = threading.Event()
        self.window = ThreadWindow(self.cancel)
        self.feed = LiveInput(self.cancel, feed_taken)

    def stop(self) -> None:
        self.cancel.set()
        self.window.credit(0)
        self.feed.put(None)


class Worker:
    """The frame loop around one engine."""

    def __init__(self, reference: str, settings: RuntimeSettings, home: Home) -> None:
        self._reference, self._settings, self._home = reference, settings, home
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._running: dict[int, _Running] = {}
        self._out: deque[bytes] = deque()
        self._flushing = False
        self._lock = threading.Lock()
        self._frames = FrameProtocol(self._on_frame, self._done.set)
        self._model: ResolvedModel | None = None
        self._engine: Engine | None = None

    async def serve(self, connection: socket.socket) -> None:
        await self._loop.create_connection(lambda: self._frames, sock=connection)
        threading.Thread(target=self._resolve, name="resolve", daemon=True).start()
        await self._done.wait()
        for running in list(self._running.values()):
            running.stop()
        if self._engine is not None:
            self._engine.close()

    # --- steps, each in a thread --------------------------------------------------------------------------------

    def _resolve(self) -> None:
        try:
            from ninestory.runtimes.plan import plan_loading

            self._model = resolve(parse_reference(self._reference), self._home)
            needed = plan_loading(self._model, self._settings).needed
            self._send(0, FrameKind.HELLO, {"stage": "resolved", "needed": needed, "task": self._model.task})
        except Exception as error:
            self._send_error(0, error)

    def _load(self) -> None:
        try:
            from ninestory.runtimes.load import load_engine

            assert self._model is not None
            self._engine = load_engine(self._model, self._settings)
            self._send(0, FrameKind.HELLO, {"stage": "ready", "info": self._engine.info, "rss_bytes": resident_bytes()})
        except Exception as error:
            self._send_error(0, error)

    def _run(self, request_id: int, payload: bytes, running: _Running) -> None:
        try:
            assert self._engine is not None
            data = orjson.loads(payload)
            live = data.pop("live")
            request = _REQUESTS[data.pop("kind")].validate_python(data)
            feed = iter(running.feed) if live else None
            for chunk in self._engine.run(request, running.cancel, feed):
                written = orjson.dumps(chunk.wire())
                running.window.spend(len(written))
                self._send_bytes(request_id, FrameKind.CHUNK, written)
            self._send_bytes(request_id, FrameKind.END)
        except Cancelled:
            self._send_bytes(request_id, FrameKind.END)
        except Exception as error:
            self._send_error(request_id, error)
        finally:
            running.cancel.set()  # an engine that was left in the middle stops
            self._running.pop(request_id, None)

    # --- the wire -----------------------------------------------------------------------------------------------

    def _on_frame(self, request_id: int, kind: FrameKind, payload: bytes) -> None:
        if kind is FrameKind.LOAD:
            threading.Thread(target=self._load, name="load", daemon=True).start()
        elif kind is FrameKind.REQUEST:
            running = self._running[request_id] = _Running(lambda nbytes: self._put(encode_credit(request_id, nbytes)))
            arguments = (request_id, payload, running)
            threading.Thread(target=self._run, args=arguments, name=f"request-{request_id}", daemon=True).start()
        elif (known := self._running.get(request_id)) is None:
            return  # it ended while this was on its way
        elif kind is FrameKind.CANCEL:
            known.stop()
        elif kind is FrameKind.CREDIT:
            known.window.credit(credited_bytes(payload))
        elif kind is FrameKind.FEED:
            known.feed.put(payload)
        elif kind is FrameKind.FEED_END:
            known.feed.put(None)

    def _send(self, request_id: int, kind: FrameKind, data: Any) -> None:
        self._send_bytes(request_id, kind, orjson.dumps(data))

    def _send_bytes(self, request_id: int, kind: FrameKind, payload: bytes = b"") -> None:
        self._put(encode(request_id, kind, payload))

    def _put(self, frame: bytes) -> None:
        """From any thread. One wake-up of the loop and one write carry what all streams have at that moment."""
        with self._lock:
            self._out.append(frame)
            if self._flushing:
                return
            self._flushing = True
        self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        with self._lock:
            frames, self._out = self._out, deque()
            self._flushing = False
        self._frames.send(b"".join(frames))

    def _send_error(self, request_id: int, error: Exception) -> None:
        if not isinstance(error, NinestoryError):
            import traceback

            traceback.print_exception(error, file=sys.stderr)
            error = NinestoryError(f"{type(error).__name__}: {error}")
        self._send(request_id, FrameKind.ERROR, error.as_dict())


async def _serve(arguments: argparse.Namespace) -> None:
    spec = orjson.loads(arguments.spec)
    worker = Worker(spec["reference"], RuntimeSettings(**spec["settings"]), Home(Path(spec["home"])))
    await worker.serve(socket.socket(fileno=arguments.fd))


def main() -> None:
    """What the process runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--spec", required=True)
    parsed = parser.parse_args()
    die_with_parent(parsed.parent)
    asyncio.run(_serve(parsed))
    os._exit(0)  # native threads may still be inside a step; their memory goes with the process


if __name__ == "__main__":
    main()
