"""Engines of the pool for code that runs in threads: floors in the gateway, and jobs through their broker.

Routes read the pool's asynchronous iterator itself; a `WorkerEngine` is its blocking face, an engine like any other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ninestory.core.errors import Cancelled
from ninestory.core.tasks import Task
from ninestory.runtimes.protocol import Chunk, Engine, EngineInfo, Feed, Request
from ninestory.serving.pool import Pool

_CANCEL_POLL_SECONDS = 0.05  # between two looks at `cancel` while nothing comes


class WorkerEngine:
    """One model of the pool. `run` blocks the calling thread, never the event loop; `close` leaves it to the pool."""

    def __init__(
        self,
        pool: Pool,
        loop: asyncio.AbstractEventLoop,
        info: EngineInfo,
        reference: str,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.info = info
        self._pool, self._loop = pool, loop
        self._reference, self._overrides = reference, overrides

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        live = None if feed is None else _in_threads(feed)
        chunks = self._pool.run(self._reference, request, overrides=self._overrides, feed=live)
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
    """Lends the pool's models to threads of the gateway; memory and places are the pool's to give."""

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool, self._loop = pool, loop

    @contextmanager
    def get(
        self, reference: str, task: Task, *, workers: int = 1, overrides: Mapping[str, Any] | None = None
    ) -> Iterator[Engine]:
        """Lend the engine of a model; see `EngineProvider`."""
        lease = self._pool.reserve(reference, task, workers=workers, overrides=overrides)
        info = asyncio.run_coroutine_threadsafe(lease.__aenter__(), self._loop).result()
        try:
            yield WorkerEngine(self._pool, self._loop, info, reference, overrides)
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
