"""Engines of the pool for code that runs in threads: floors in the gateway, and jobs through their broker.

Routes read the pool's asynchronous iterator itself; a `WorkerEngine` is its blocking face, an engine like any other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ninestory.core.errors import Cancelled
from ninestory.core.tasks import Task
from ninestory.runtimes.protocol import Chunk, Engine, EngineInfo, Feed, Request
from ninestory.serving.pool import Pool

_CANCEL_POLL_SECONDS = 0.05  # between two looks at `cancel` while nothing comes


class WorkerEngine:
    """One model of the pool. `run` blocks the calling thread, never the event loop; `close` leaves it to the pool.

    Args:
        ask: (request, live input) → its chunks, on the event loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        info: EngineInfo,
        ask: Callable[[Request, AsyncIterator[bytes] | None], AsyncIterator[Chunk]],
    ) -> None:
        self.info = info
        self._loop, self._ask = loop, ask

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        chunks = self._ask(request, None if feed is None else _in_threads(feed))
        try:
            while (chunk := self._wait(_next(chunks), cancel)) is not None:
                yield chunk
        finally:
            asyncio.run_coroutine_threadsafe(_close(chunks), self._loop).result()

    def close(self) -> None:
        """The pool ends the worker when nobody needs it."""

    def _wait(self, step: Any, cancel: threading.Event) -> Chunk | None:
        future = asyncio.run_coroutine_threadsafe(step, self._loop)
        while not cancel.is_set():
            try:
                chunk: Chunk | None = future.result(_CANCEL_POLL_SECONDS)
                return chunk
            except TimeoutError:
                if future.done():  # it is the step's own
                    raise
        future.cancel()
        raise Cancelled("The request was cancelled.")


class PoolEngines:
    """Lends the pool's models to threads of the gateway; memory and places are the pool's to give.

    Args:
        ask: runs a request on a model by its reference; the pool itself when left out. A route gives its own, which
            counts the request and ends it with its client.
    """

    def __init__(
        self,
        pool: Pool,
        loop: asyncio.AbstractEventLoop,
        ask: Callable[[str, Request], AsyncIterator[Chunk]] | None = None,
    ) -> None:
        self._pool, self._loop, self._ask = pool, loop, ask

    @contextmanager
    def get(
        self, reference: str, task: Task, *, workers: int = 1, overrides: Mapping[str, Any] | None = None
    ) -> Iterator[Engine]:
        """Lend the engine of a model; see `EngineProvider`."""

        def ask(request: Request, feed: AsyncIterator[bytes] | None) -> AsyncIterator[Chunk]:
            if self._ask is not None and feed is None and not overrides:
                return self._ask(reference, request)
            return self._pool.run(reference, request, overrides=overrides, feed=feed)

        lease = self._pool.reserve(reference, task, workers=workers, overrides=overrides)
        info = asyncio.run_coroutine_threadsafe(lease.__aenter__(), self._loop).result()
        try:
            yield WorkerEngine(self._loop, info, ask)
        finally:
            asyncio.run_coroutine_threadsafe(lease.__aexit__(None, None, None), self._loop).result()


async def _next(chunks: AsyncIterator[Chunk]) -> Chunk | None:
    return await anext(chunks, None)


async def _close(chunks: AsyncIterator[Chunk]) -> None:
    while chunks.ag_running:  # type: ignore[attr-defined]  # a step that was cancelled is still unwinding
        await asyncio.sleep(0.001)
    await chunks.aclose()  # type: ignore[attr-defined]


async def _in_threads(feed: Feed) -> AsyncIterator[bytes]:
    """A blocking feed, read in a thread of its own so that a silent microphone holds up nobody."""
    while (piece := await asyncio.to_thread(next, feed, None)) is not None:
        yield piece
