"""The gateway's end of the job process: lends the pool's models to it, so that memory counts what jobs use.

Frames as to a worker, with the roles turned: RESERVE a model (or memory for the job's own), then requests that name the lease. Their bodies go to the
worker, and its chunks back, without being read here. What the job process holds is given back when it ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Any

import orjson

from ninestory.core.errors import NinestoryError
from ninestory.serving.frames import FrameKind, FrameProtocol, credited_bytes, encode
from ninestory.serving.pool import Pool
from ninestory.serving.windows import AsyncWindow

REQUEST_HEAD = struct.Struct("<IB")  # lease, length of the kind's name; then the kind and the request

log = logging.getLogger("ninestory.jobs")


class JobBroker:
    """One connection to a job process.

    Args:
        pid: of that process.
    """

    def __init__(self, pool: Pool, pid: int) -> None:
        self._pool, self._pid = pool, pid
        self._frames = FrameProtocol(self._on_frame, self._end)
        self._leases: dict[int, tuple[dict[str, Any], asyncio.Event]] = {}  # what was reserved, and its release
        self._windows: dict[int, AsyncWindow] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def start(self, connection: socket.socket) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self._frames, sock=connection)

    def close(self) -> None:
        self._frames.close()

    def _end(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    def _on_frame(self, request_id: int, kind: FrameKind, payload: bytes) -> None:
        if kind is FrameKind.RESERVE:
            asked = orjson.loads(payload)
            self._run(request_id, (self._hold if "needed" in asked else self._lend)(request_id, asked))
        elif kind is FrameKind.RELEASE and request_id in self._leases:
            self._leases[request_id][1].set()
        elif kind is FrameKind.REQUEST:
            self._windows[request_id] = AsyncWindow()
            self._run(request_id, self._answer(request_id, payload))
        elif kind is FrameKind.CREDIT and request_id in self._windows:
            self._windows[request_id].credit(credited_bytes(payload))
        elif kind is FrameKind.CANCEL and request_id in self._windows:
            self._tasks[request_id].cancel()

    def _run(self, request_id: int, work: Any) -> None:
        async def told() -> None:
            """The work, and what came of it: every reservation and request is answered, a cancelled one too."""
            try:
                await work
            except NinestoryError as error:
                self._send(request_id, FrameKind.ERROR, orjson.dumps(error.as_dict()))
            except Exception as error:
                log.exception("a request of the job process failed")
                fault = NinestoryError(f"{type(error).__name__}: {error}")
                self._send(request_id, FrameKind.ERROR, orjson.dumps(fault.as_dict()))
            else:
                self._send(request_id, FrameKind.END)
            finally:
                for table in (self._tasks, self._windows, self._leases):
                    table.pop(request_id, None)

        self._tasks[request_id] = asyncio.create_task(told())

    async def _lend(self, lease: int, asked: dict[str, Any]) -> None:
        released = asyncio.Event()
        async with self._pool.reserve(
            asked["model"], asked["task"], workers=asked["workers"], overrides=asked["overrides"], trusted=True
        ) as info:
            self._leases[lease] = (asked, released)
            self._send(lease, FrameKind.HELLO, orjson.dumps({"info": info}))
            await released.wait()

    async def _hold(self, lease: int, asked: dict[str, Any]) -> None:
        released = asyncio.Event()
        async with self._pool.hold(asked["needed"], self._pid, force=asked["force"]):
            self._leases[lease] = (asked, released)
            self._send(lease, FrameKind.HELLO, orjson.dumps({}))
            await released.wait()

    async def _answer(self, request_id: int, payload: bytes) -> None:
        lease, length = REQUEST_HEAD.unpack_from(payload)
        kind, body = payload[REQUEST_HEAD.size :][:length].decode(), payload[REQUEST_HEAD.size + length :]
        asked, _ = self._leases[lease]
        chunks = self._pool.relay(asked["model"], kind, body, overrides=asked["overrides"])
        try:
            async for chunk in chunks:
                await self._windows[request_id].spend(len(chunk))
                self._send(request_id, FrameKind.CHUNK, chunk)
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]

    def _send(self, request_id: int, kind: FrameKind, payload: bytes = b"") -> None:
        self._frames.send(encode(request_id, kind, payload))
