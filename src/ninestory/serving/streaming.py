"""Server-sent events, and the watch for clients that go away in mid-answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import orjson
from fastapi import Request
from starlette.responses import StreamingResponse

from ninestory.core.errors import Cancelled, NinestoryError
from ninestory.serving.errors import error_body, internal_error

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
Chunk = TypeVar("Chunk")


def event(data: Any, name: str | None = None) -> bytes:
    """One event; `name` for the protocols that name theirs."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


async def until_gone(request: Request, chunks: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same chunks, ended by `Cancelled` as soon as the client is gone, in a silent prefill too."""
    gone = asyncio.ensure_future(_disconnected(request))
    pull: asyncio.Future[T] | None = None
    try:
        while True:
            pull = asyncio.ensure_future(anext(chunks))
            await asyncio.wait({pull, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not pull.done():
                raise Cancelled("The client went away.")
            try:
                chunk = pull.result()
            except StopAsyncIteration:
                return
            yield chunk
    finally:
        gone.cancel()
        if pull is not None and not pull.done():
            pull.cancel()
            await asyncio.gather(pull, return_exceptions=True)
        await chunks.aclose()  # type: ignore[attr-defined]


async def merged(iterators: Sequence[AsyncIterator[T]], most: Callable[[], int]) -> AsyncIterator[tuple[int, T]]:
    """(place of the iterator, what it gave), as it comes; at most `most()` of them run at a time, the first ones first.

    The first error ends all. Nothing piles up: an iterator is asked for more when its last chunk was taken.
    """
    waiting = list(enumerate(iterators))[::-1]
    pulls: dict[asyncio.Future[T], int] = {}
    try:
        while pulls or waiting:
            while waiting and len(pulls) < most():
                place, iterator = waiting.pop()
                pulls[asyncio.ensure_future(anext(iterator))] = place
            done, _ = await asyncio.wait(pulls, return_when=asyncio.FIRST_COMPLETED)
            for pull in sorted(done, key=pulls.__getitem__):
                place = pulls.pop(pull)
                try:
                    chunk = pull.result()
                except StopAsyncIteration:
                    continue
                yield place, chunk
                pulls[asyncio.ensure_future(anext(iterators[place]))] = place
    finally:
        for pull in pulls:
            pull.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)
        for iterator in iterators:
            await iterator.aclose()  # type: ignore[attr-defined]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream(
    request: Request, lines: AsyncIterator[bytes], on_error: Callable[[dict[str, Any]], bytes] | None = None
) -> StreamingResponse:
    """Answer with events. The first is awaited before the status is sent, so that early errors keep their status."""
    first = await anext(lines)

    async def body() -> AsyncIterator[bytes]:
        try:
            yield first
            async for line in lines:
                yield line
        except Cancelled:
            return
        except Exception as caught:  # the status is sent: an event is the only way left to say it
            error = caught if isinstance(caught, NinestoryError) else internal_error(caught, request)
            data = error_body(error, request.state.request_id, request.url.path)
            yield on_error(data) if on_error else event(data)
        finally:
            await lines.aclose()  # type: ignore[attr-defined]

    return StreamingResponse(
        body(), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
