"""One model in a process of its own: `python -m ninestory.serving.worker --fd N --parent PID`.

Started by `serving/supervisor.py` with one end of a socket pair. Resolves the model, says what it will need, loads it
when told to, and runs each request in a thread of its own. Dies with the gateway: by the parent-death signal, and by
the end of the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import threading
from collections import deque
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
from ninestory.runtimes.protocol import REQUESTS, Engine
from ninestory.serving.frames import FrameProtocol, Kind, encode

_REQUESTS: dict[str, pydantic.TypeAdapter[Any]] = {kind: pydantic.TypeAdapter(cls) for kind, cls in REQUESTS.items()}


class Worker:
    """The frame loop around one engine."""

    def __init__(self, reference: str, settings: RuntimeSettings, home: Home) -> None:
        self._reference, self._settings, self._home = reference, settings, home
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._cancels: dict[int, threading.Event] = {}
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
        for cancel in self._cancels.values():
            cancel.set()
        if self._engine is not None:
            self._engine.close()

    # --- steps, each in a thread --------------------------------------------------------------------------------

    def _resolve(self) -> None:
        try:
            from ninestory.models.plan import plan

            self._model = resolve(parse_reference(self._reference), self._home)
            needed = plan(self._model, self._settings).total_bytes
            self._send(0, Kind.HELLO, {"stage": "resolved", "needed_bytes": needed, "task": self._model.task})
        except Exception as error:
            self._send_error(0, error)

    def _load(self) -> None:
        try:
            from ninestory.runtimes.load import load_engine

            assert self._model is not None
            self._engine = load_engine(self._model, self._settings)
            self._send(0, Kind.HELLO, {"stage": "ready", "info": self._engine.info, "rss_bytes": resident_bytes()})
        except Exception as error:
            self._send_error(0, error)

    def _run(self, request_id: int, payload: bytes, cancel: threading.Event) -> None:
        try:
            assert self._engine is not None
            data = orjson.loads(payload)
            request = _REQUESTS[data.pop("kind")].validate_python(data)
            for chunk in self._engine.run(request, cancel):
                self._send(request_id, Kind.CHUNK, chunk)
            self._send(request_id, Kind.END, None)
        except Cancelled:
            self._send(request_id, Kind.END, None)
        except Exception as error:
            self._send_error(request_id, error)
        finally:
            self._cancels.pop(request_id, None)

    # --- the wire -----------------------------------------------------------------------------------------------

    def _on_frame(self, request_id: int, kind: Kind, payload: bytes) -> None:
        if kind is Kind.LOAD:
            threading.Thread(target=self._load, name="load", daemon=True).start()
        elif kind is Kind.REQUEST:
            cancel = self._cancels[request_id] = threading.Event()
            arguments = (request_id, payload, cancel)
            threading.Thread(target=self._run, args=arguments, name=f"request-{request_id}", daemon=True).start()
        elif kind is Kind.CANCEL and request_id in self._cancels:
            self._cancels[request_id].set()

    def _send(self, request_id: int, kind: Kind, data: Any) -> None:
        """From any thread. One wake-up of the loop and one write carry what all streams have at that moment."""
        frame = encode(request_id, kind, orjson.dumps(data) if data is not None else b"")
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
        self._send(request_id, Kind.ERROR, error.as_dict())


async def _main(arguments: argparse.Namespace) -> None:
    spec = orjson.loads(arguments.spec)
    worker = Worker(spec["reference"], RuntimeSettings(**spec["settings"]), Home(Path(spec["home"])))
    await worker.serve(socket.socket(fileno=arguments.fd))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--spec", required=True)
    parsed = parser.parse_args()
    die_with_parent(parsed.parent)
    asyncio.run(_main(parsed))
    os._exit(0)  # native threads may still be inside a step; their memory goes with the process
