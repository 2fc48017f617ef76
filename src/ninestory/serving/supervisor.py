"""One worker process from its start to its end, and the streams of the requests it runs.

States: starting → ready ⇄ busy → draining → dead. The end of the socket is the end of the worker, whatever the cause.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import NinestoryError, TimedOut, Unavailable, from_dict
from ninestory.core.scratch import LLAMA_SOCKETS, sweep_scratch
from ninestory.runtimes.protocol import EngineInfo, Request
from ninestory.serving.frames import (
    PIECE,
    FrameKind,
    FrameProtocol,
    credited_bytes,
    encode,
    encode_credit,
)
from ninestory.serving.windows import CREDIT_STEP, AsyncWindow

_STDERR_LINES = 200


@dataclass(frozen=True)
class TimeLimit:
    """When a request is ended: `seconds` from `began` (time.monotonic), or from its last chunk if `from_last_chunk`."""

    began: float
    seconds: float
    error: NinestoryError
    from_last_chunk: bool = False


class Stream:
    """Chunks of one request, between the socket's reader and the route that answers.

    `on_end` is called when the engine is done with it, be the client still reading or not.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self.on_end = on_end
        self.unread_bytes = 0  # arrived and not yet taken
        self.taken = 0  # bytes, since the worker was told
        self.last_chunk_at = 0.0
        self.feed = AsyncWindow()
        self._chunks: deque[tuple[bytes | NinestoryError | None, int]] = deque()
        self._arrived = asyncio.Event()

    def put(self, chunk: bytes | NinestoryError | None, size: int = 0) -> None:
        self._chunks.append((chunk, size))
        self.unread_bytes += size
        self._arrived.set()

    async def get(self) -> bytes | NinestoryError | None:
        while not self._chunks:
            self._arrived.clear()
            await self._arrived.wait()
        chunk, size = self._chunks.popleft()
        self.unread_bytes -= size
        self.taken += size
        return chunk


def request_payload(request: Request, live: bool = False) -> bytes:
    """A request as it crosses to a worker; `live`: its input comes in FEED frames."""
    data = {"kind": request.kind, "live": live, **dataclasses.asdict(request)}
    return orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)


class WorkerProcess:
    """A worker as the gateway sees it. Made and used on the event loop's thread, which must be the main one."""

    module = "ninestory.serving.worker"  # what the process runs

    def __init__(self, reference: str, settings: RuntimeSettings, home: Path) -> None:
        self.reference = reference
        self.state = "starting"
        self.needed: dict[str, int] = {}  # device ("ram", "cuda:0", …) → bytes that the plan of its model needs
        self.rss_bytes = 0
        self.info: EngineInfo | None = None
        self.started_at = self.idle_since = time.monotonic()
        self.stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self.dead = asyncio.Event()
        self._streams: dict[int, Stream] = {}
        self._next_id = 1
        self._seen_stopped = False
        self._cause = ""
        self._hello: asyncio.Queue[dict[str, Any] | NinestoryError] = asyncio.Queue()
        self._frames = FrameProtocol(self._on_frame, self._on_lost)
        self._process, self._socket = self._spawn(settings, home)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def needed_bytes(self) -> int:
        """What it needs of all devices together."""
        return sum(self.needed.values())

    @property
    def active(self) -> int:
        return len(self._streams)

    def _spawn(self, settings: RuntimeSettings, home: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        spec = {"reference": self.reference, "settings": dataclasses.asdict(settings), "home": str(home)}
        command = [sys.executable, "-m", self.module, "--fd", str(theirs.fileno())]
        command += ["--parent", str(os.getpid()), "--spec", orjson.dumps(spec).decode()]
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the gateway only, which then drains
        )
        theirs.close()
        threading.Thread(target=self._read_stderr, args=(process,), name="worker-stderr", daemon=True).start()
        return process, ours

    def _read_stderr(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.stderr.append(line.decode("utf-8", errors="replace").rstrip())
        process.wait()
        sweep_scratch(LLAMA_SOCKETS)  # a killed worker's

    async def resolve(self, timeout: float) -> None:
        """Wait until the worker has found its files and said what it needs (`needed`)."""
        await asyncio.get_running_loop().create_connection(lambda: self._frames, sock=self._socket)
        hello = await self._expect(timeout)
        self.needed = hello["needed"]

    async def load(self, timeout: float) -> None:
        """Let it load, and wait until it is ready."""
        self._frames.send(encode(0, FrameKind.LOAD))
        hello = await self._expect(timeout)
        self.info, self.rss_bytes = EngineInfo(**hello["info"]), hello["rss_bytes"]
        self.state, self.idle_since = "ready", time.monotonic()

    async def _expect(self, timeout: float) -> dict[str, Any]:
        try:
            hello = await asyncio.wait_for(self._hello.get(), timeout)
        except TimeoutError:
            self.kill()
            raise TimedOut(
                f"{self.reference} was not ready after {timeout:g} s.",
                hint="Give it longer with --start-timeout, or choose a smaller model.",
                hint_zh="请用 --start-timeout 延长等待，或选择更小的模型。",
            ) from None
        if isinstance(hello, NinestoryError):
            self.kill()
            raise hello
        return hello

    async def relay(
        self,
        payload: bytes,
        on_end: Callable[[], None],
        limit: TimeLimit | None = None,
        feed: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[bytes]:
        """Send a request (`request_payload`) and yield its chunks as JSON. Leaving the iterator early cancels the request in the worker.

        Args:
            on_end: called when the engine has answered, even while the client is slow to take the answer.
            feed: live input; read only as fast as the engine takes it.

        Raises:
            TooLarge: the request does not fit into a frame. The limit's error. Whatever the engine raised.
        """
        if self.state == "dead":
            raise self.death()
        request_id, self._next_id = self._next_id, self._next_id % 0xFFFFFFF0 + 1
        frame = encode(request_id, FrameKind.REQUEST, payload)
        stream = self._streams[request_id] = Stream(on_end)
        self.state = "busy"
        self._frames.send(frame)
        timer = self._start_timer(stream, limit) if limit else None
        feeding = asyncio.create_task(self._feed(request_id, stream, feed)) if feed is not None else None
        try:
            while (chunk := await stream.get()) is not None:
                if isinstance(chunk, NinestoryError):
                    raise chunk
                if stream.taken >= CREDIT_STEP:
                    self._frames.send(encode_credit(request_id, stream.taken))
                    stream.taken = 0
                yield chunk
        finally:
            if timer is not None:
                timer()
            if feeding is not None:
                feeding.cancel()
            if self._forget(request_id):
                self._frames.send(encode(request_id, FrameKind.CANCEL))

    def _start_timer(self, stream: Stream, limit: TimeLimit) -> Callable[[], None]:
        """Put the limit's error into the stream when its time has come; returns what stops the timer.

        One timer a request: a task for each token would cost as much as the token's frame.
        """
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def check() -> None:
            nonlocal timer
            start = max(limit.began, stream.last_chunk_at) if limit.from_last_chunk else limit.began
            left = start + limit.seconds - time.monotonic()
            if left <= 0:
                stream.put(limit.error)
            else:
                timer = loop.call_later(left, check)

        timer = loop.call_later(max(0.0, limit.began + limit.seconds - time.monotonic()), check)
        return lambda: timer.cancel()

    async def _feed(self, request_id: int, stream: Stream, feed: AsyncIterator[bytes]) -> None:
        """Hand live input on, at most a window ahead of the engine. A fault of its source ends the request."""
        try:
            async for sound in feed:
                for start in range(0, len(sound), PIECE):
                    piece = sound[start : start + PIECE]
                    await stream.feed.spend(len(piece))
                    self._frames.send(encode(request_id, FrameKind.FEED, piece))
            self._frames.send(encode(request_id, FrameKind.FEED_END))
        except NinestoryError as error:
            stream.put(error)

    def _forget(self, request_id: int) -> bool:
        """The engine owes nothing more to this request; False when that was known."""
        known = self._streams.pop(request_id, None) is not None
        if known and not self._streams:
            self.idle_since = time.monotonic()
            self.state = "ready" if self.state == "busy" else self.state
        return known

    async def drain(self, timeout: float) -> None:
        """Take no more, let the running requests end, stop."""
        if self.state != "dead":
            self.state = "draining"
        deadline = time.monotonic() + timeout
        while self._streams and time.monotonic() < deadline and not self.dead.is_set():
            await asyncio.sleep(0.02)
        self._frames.close()
        try:
            await asyncio.wait_for(self._exited(), 5)
        except TimeoutError:
            self.kill()
            await self._exited()

    async def _exited(self) -> None:
        """Memory is free only when the process is gone."""
        while self._process.poll() is None:
            await asyncio.sleep(0.01)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()

    def end_if_stopped(self) -> None:
        """Kill a worker that two looks in a row find stopped (SIGSTOP): its clients would wait without an answer."""
        if not is_stopped(self.pid):
            self._seen_stopped = False
        elif not self._seen_stopped:
            self._seen_stopped = True
        else:
            self._cause = "was stopped (SIGSTOP) and then ended"
            self.kill()

    def death(self) -> Unavailable:
        """Why it is gone, with its last words."""
        code = self._process.poll()
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        how = self._cause or how
        words = " | ".join(list(self.stderr)[-3:])
        return Unavailable(
            f"The worker of {self.reference} {how} while it was needed.",
            hint="Send the request again: the worker is restarted." + (f" Its last words: {words}" if words else ""),
            hint_zh="请重新发送请求：工作进程会自动重启。" + (f"其最后输出：{words}" if words else ""),
            code="worker_died",
            retry_after=1,
        )

    # --- what the socket says -----------------------------------------------------------------------------------

    def _on_frame(self, request_id: int, kind: FrameKind, payload: bytes) -> None:
        if request_id == 0:
            data = orjson.loads(payload)
            self._hello.put_nowait(from_dict(data) if kind is FrameKind.ERROR else data)
            return
        stream = self._streams.get(request_id)
        if stream is None:
            return
        if kind is FrameKind.CHUNK:
            stream.last_chunk_at = time.monotonic()
            stream.put(payload, len(payload))
        elif kind is FrameKind.CREDIT:
            stream.feed.credit(credited_bytes(payload))
        else:
            stream.put(from_dict(orjson.loads(payload)) if kind is FrameKind.ERROR else None)
            self._forget(request_id)
            stream.on_end()

    def _on_lost(self) -> None:
        drained = self.state == "draining"
        self.state = "dead"
        try:
            self._process.wait(timeout=0.05)  # the exit status follows the socket's end at once
        except subprocess.TimeoutExpired:
            self.kill()
        error = self.death()
        for stream in self._streams.values():
            stream.put(error)
        if not drained:
            self._hello.put_nowait(error)
        self.dead.set()


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
