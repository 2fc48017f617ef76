"""A uvicorn server of ours in a thread of the test, around any ASGI application."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ninestory.serving.http_protocol import BoundedHttpProtocol


@contextmanager
def running(
    app: Any, http: type[BoundedHttpProtocol] = BoundedHttpProtocol, ws: type[asyncio.Protocol] | None = None
) -> Iterator[int]:
    """The port of a server that answers with `app` until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        config = uvicorn.Config(app, http=http, ws=ws or "none", lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


def exchange(port: int, request: bytes, timeout: float = 10) -> bytes:
    """Everything the server says to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        with contextlib.suppress(OSError):  # it may close while we are sending
            connection.sendall(request)
        return read_to_end(connection)


def read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while piece := connection.recv(65536):
            answer += piece
    except ConnectionError:
        pass
    return answer


class HandshakeProtocol(asyncio.Protocol):
    """The server's side of a WebSocket handshake (RFC 6455, section 4.2) as uvicorn's `ws` class; no frames.

    Stands in for the `websockets` package, which is not a dependency: it makes the same ASGI scope and messages.
    """

    def __init__(self, config: uvicorn.Config, server_state: Any, app_state: dict[str, Any]) -> None:
        self._app = config.loaded_app
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"GET "):
            return
        request, *lines = data.split(b"\r\n\r\n")[0].split(b"\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        path = request.split(b" ")[1].decode()
        scope = {"type": "websocket", "scheme": "ws", "path": path, "root_path": "", "query_string": b""}
        scope |= {"headers": headers, "subprotocols": [], "asgi": {"version": "3.0", "spec_version": "2.3"}}
        key = dict(headers)[b"sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.accept":
                head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                self._transport.write(head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            elif message["type"] == "websocket.close":
                self._transport.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            self._transport.close()

        asyncio.get_running_loop().create_task(self._app(scope, receive, send))
