"""The guarded web client against servers that never finish, and against addresses that only look public."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ninestory.core import web
from ninestory.core.errors import Forbidden, TimedOut

SECONDS = 0.4


@contextmanager
def server_that_drips(first: bytes, again: bytes) -> Iterator[str]:
    """Sends `first`, then `again` every 50 ms for as long as the client listens."""

    class Dripping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                self.request.recv(65536)
                self.request.sendall(first)
                while True:
                    self.request.sendall(again)
                    time.sleep(0.05)
            except OSError:
                pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Dripping) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def assert_ends_in_time(url: str) -> None:
    begin = time.monotonic()
    with pytest.raises(TimedOut):
        web.fetch(url, seconds=SECONDS, private_hosts=frozenset({"127.0.0.1"}))
    assert time.monotonic() - begin < SECONDS + 1


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n", b"a: b\r\n"),
    ],
    ids=["headers", "100 Continue", "chunks", "a redirect"],
)
def test_a_server_that_drips_is_left_in_time(first: bytes, again: bytes) -> None:
    with server_that_drips(first, again) as url:
        assert_ends_in_time(url)


def test_a_name_server_that_never_answers_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def silent(*_: Any, **__: Any) -> Any:
        released.wait(10)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        assert_ends_in_time("http://silent.invalid/")
    finally:
        released.set()


@pytest.mark.parametrize(
    "address",
    [
        "fec0::1",
        "feff:ffff::1",
        "3fff::1",
        "3fff:fff::1",
        "192.88.99.1",
        "192.0.0.9",
        "192.0.0.170",
        "64:ff9b::a9fe:a9fe",  # 169.254.169.254 behind a NAT64 gateway
        "64:ff9b::10.0.0.1",
        "2002:c058:6301::1",  # 6to4 of 192.88.99.1
        "::ffff:192.0.0.1",
    ],
)
def test_reserved_addresses_are_not_public(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(family, socket.SOCK_STREAM, 6, "", (address, 80, 0, 0))]
    )
    with pytest.raises(Forbidden, match="private network"):
        web.fetch("http://looks-public.example/", seconds=SECONDS)


@pytest.mark.parametrize("address", ["64:ff9b::1.1.1.1", "2606:4700:4700::1111", "9.9.9.9"])
def test_public_addresses_pass_the_check(address: str) -> None:
    web._check_public("public.example", address)
