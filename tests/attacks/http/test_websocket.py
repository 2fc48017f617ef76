"""WebSocket handshakes pass the same door as requests. No route of ours is one yet; the next one is guarded already."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI, WebSocket

from ninestory.core.config import ServeSettings
from ninestory.core.errors import Unsupported
from ninestory.serving.guard import COOKIE, Guard, KeyCheck
from ninestory.serving.query import refuse_unknown_query
from ninestory.serving.request_text import refuse_broken_text
from tests.attacks.http.thread_server import HandshakeProtocol, exchange, running

KEY = "the-key"
KEYS = KeyCheck(KEY)
NONCE = base64.b64encode(b"0123456789abcdef")


open_to_anybody = FastAPI(dependencies=[Depends(refuse_unknown_query), Depends(refuse_broken_text)])  # as ours


@open_to_anybody.websocket("/{path:path}")
async def talk(socket: WebSocket, path: str) -> None:
    await socket.accept()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    guard = Guard(open_to_anybody, ServeSettings(), KEYS, lambda *_: None)
    with running(guard, ws=HandshakeProtocol) as port:
        yield port


@pytest.fixture(scope="module")
def keyless_port() -> Iterator[int]:
    guard = Guard(open_to_anybody, ServeSettings(), KeyCheck(""), lambda *_: None)
    with running(guard, ws=HandshakeProtocol) as port:
        yield port


def handshake(port: int, *headers: str, host: str = "localhost", path: str = "/v1/realtime") -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {NONCE.decode()}", "Sec-WebSocket-Version: 13", *headers]
    return exchange(port, ("\r\n".join(lines) + "\r\n\r\n").encode())


def test_handshake_with_the_key_or_a_session_is_accepted(port: int) -> None:
    proof = base64.b64encode(hashlib.sha1(NONCE + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    for signed_in in (f"Authorization: Bearer {KEY}", f"x-api-key: {KEY}", f"Cookie: {COOKIE}={KEYS.new_session()}"):
        answer = handshake(port, signed_in)
        assert answer.startswith(b"HTTP/1.1 101") and proof in answer


@pytest.mark.parametrize("path", ["/v1/realtime", "/ui/socket", "/health", "/ninestory/v1/session"])
def test_handshake_without_the_key_is_refused_at_every_path(port: int, path: str) -> None:
    for headers in ((), ("Authorization: Bearer wrong",), (f"Cookie: {COOKIE}=wrong",)):
        assert handshake(port, *headers, path=path).startswith(b"HTTP/1.1 403")


def test_foreign_hosts_and_origins_are_refused_without_a_key_too(keyless_port: int) -> None:
    assert handshake(keyless_port).startswith(b"HTTP/1.1 101")
    assert handshake(keyless_port, "Origin: http://localhost").startswith(b"HTTP/1.1 101")
    for headers, host in (
        (("Origin: http://evil.example",), "localhost"),
        (("Origin: null",), "localhost"),
        (("Origin: http://localhost", "Origin: http://evil.example"), "localhost"),
        ((), "evil.example"),
        (("Host: evil.example",), "localhost"),
        ((), "localhost:80@evil.example"),
    ):
        assert handshake(keyless_port, *headers, host=host).startswith(b"HTTP/1.1 403"), (headers, host)


def test_other_kinds_of_connection_are_refused() -> None:
    guard = Guard(open_to_anybody, ServeSettings(), KeyCheck(""), lambda *_: None)

    async def never(*_: Any) -> Any:
        raise AssertionError("the application was reached")

    with pytest.raises(Unsupported, match="webtransport"):
        asyncio.run(guard({"type": "webtransport", "headers": []}, never, never))
