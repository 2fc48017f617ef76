"""Back-pressure of one stream: what was sent and not yet taken, and the wait when that is too much."""

from __future__ import annotations

import asyncio
import threading

from ninestory.core.errors import Cancelled, Unavailable

WINDOW = 1 << 20  # bytes of one stream that the other end has not taken yet; past it the sender waits
CREDIT_STEP = WINDOW // 4  # bytes taken before the sender is told: short answers cost no frame
UNREAD_SECONDS = 60.0  # a stream that nobody reads for so long is cancelled


class ThreadWindow:
    """Bytes of one stream that were sent and not yet taken; past `WINDOW` the stream's thread waits, and no other."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel
        self._unread = 0
        self._changed = threading.Condition()

    def spend(self, nbytes: int) -> None:
        """Wait until there is room, then count `nbytes` as sent. A chunk larger than the room goes out whole.

        Raises:
            Cancelled: the request was. Unavailable: nothing was taken for `UNREAD_SECONDS`.
        """
        with self._changed:
            if not self._changed.wait_for(self._may_send, UNREAD_SECONDS):
                raise Unavailable(
                    f"The client left {self._unread} bytes unread for {UNREAD_SECONDS:g} s; the request was cancelled.",
                    hint="Read the stream as it comes.",
                    hint_zh="请及时读取数据流。",
                    code="client_too_slow",
                )
            self._unread += nbytes
        if self._cancel.is_set():
            raise Cancelled("The request was cancelled.")

    def credit(self, nbytes: int) -> None:
        """The other end has taken `nbytes`; 0 wakes a waiting thread to see that it is cancelled."""
        with self._changed:
            self._unread -= nbytes
            self._changed.notify_all()

    def _may_send(self) -> bool:
        return self._unread < WINDOW or self._cancel.is_set()


class AsyncWindow:
    """The same on an event loop, where whoever waits is cancelled with its task."""

    def __init__(self) -> None:
        self._unread = 0
        self._changed = asyncio.Event()

    async def spend(self, nbytes: int) -> None:
        """Wait until there is room, then count `nbytes` as sent."""
        while self._unread >= WINDOW:
            self._changed.clear()
            await self._changed.wait()
        self._unread += nbytes

    def credit(self, nbytes: int) -> None:
        """The other end has taken `nbytes`."""
        self._unread -= nbytes
        self._changed.set()
