"""HTTP/1.1 connections whose request headers are bounded in size, number and time, before any application runs.

uvicorn's parser keeps what it reads until the headers are complete, and waits for them without end: both are limited
here, in the protocol, because the guard (and its key check) runs only when the headers are complete.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ninestory.core.errors import InvalidRequest, NinestoryError
from ninestory.serving.errors import error_body

MAX_HEADER_BYTES = 64 << 10
MAX_HEADER_FIELDS = 100
HEADER_SECONDS = 15.0
LINGER_SECONDS = 1.0  # a refused client goes on sending; closing at once would reset the connection before it reads why


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. Bytes outside a body (request line, headers, trailers) are counted against one limit."""

    header_seconds = HEADER_SECONDS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._refused = False
        self._in_message = False
        self._headers_complete = False
        self._parsed_bytes = 0  # of the request line and of complete fields
        self._fields = 0
        self._raw_bytes = 0  # read since the message began or its body last grew: holds incomplete fields too
        self._body_grew = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._arm_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if not self._in_message:
            self._raw_bytes = 0
        self._body_grew = False
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        self._raw_bytes = 0 if self._body_grew else self._raw_bytes + len(data)
        waits_for_headers = not self._headers_complete if self._in_message else self._raw_bytes > 0
        if self._raw_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()
        elif waits_for_headers:
            self._arm_deadline()
        else:
            self._disarm_deadline()

    # --- what the parser reports --------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message, self._headers_complete = True, False
        self._parsed_bytes = self._fields = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        if not self._refused:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._count(len(name) + len(value) + 4)  # ": " and the line's end
        if not self._refused:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._headers_complete = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_grew = True
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message, self._body_grew = False, True
        if not self._refused:
            super().on_message_complete()

    # --- limits -------------------------------------------------------------------------------------------------

    def _count(self, size: int) -> None:
        self._parsed_bytes += size
        if self._parsed_bytes > MAX_HEADER_BYTES or self._fields > MAX_HEADER_FIELDS:
            self._refuse_headers()

    def _refuse_headers(self) -> None:
        self._refuse(
            431,
            InvalidRequest(
                f"The request's headers are larger than {MAX_HEADER_BYTES >> 10} KB or more than {MAX_HEADER_FIELDS}.",
                hint="Send fewer and shorter headers; long data belongs in the body.",
                hint_zh="请减少或缩短请求头；较长的数据应放在请求体中。",
                code="headers_too_large",
            ),
        )

    def _arm_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._late)

    def _disarm_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._refused or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:  # an earlier request is still being answered
            self._arm_deadline()
        elif self._raw_bytes == 0:  # nothing was asked: nothing to answer
            self.transport.close()
        else:
            self._refuse(
                408,
                InvalidRequest(
                    f"The request's headers were not complete after {self.header_seconds:g} s.",
                    hint="Send the whole request at once.",
                    hint_zh="请一次发送完整的请求。",
                    code="headers_too_slow",
                ),
            )

    def _refuse(self, status: int, error: NinestoryError) -> None:
        """Answer, then read and drop what still comes for a moment, and close."""
        if self._refused:
            return
        self._refused = True
        self._disarm_deadline()
        body = orjson.dumps(error_body(error, ""))
        head = STATUS_LINE[status] + (
            b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)
