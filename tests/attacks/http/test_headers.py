"""Request headers without end, without number, or without an end in time: refused before the key is looked at."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from ninestory.core.config import ServeSettings
from ninestory.serving.guard import Guard, KeyCheck
from ninestory.serving.http_protocol import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, BoundedHttpProtocol
from tests.attacks.http.thread_server import exchange, read_to_end, running

START = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


class Hasty(BoundedHttpProtocol):
    header_seconds = 0.3


async def answer(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    text = str(len(body)).encode()
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(Guard(answer, ServeSettings(), KeyCheck("a key nobody here knows"), lambda *_: None)) as port:
        yield port


@pytest.fixture(scope="module")
def hasty_port() -> Iterator[int]:
    with running(answer, Hasty) as port:
        yield port


def status_and_code(answered: bytes) -> tuple[int, str]:
    head, _, body = answered.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    "headers",
    [
        b"a: b\r\n" * (MAX_HEADER_FIELDS + 1) + b"\r\n",
        b"x: " + b"v" * MAX_HEADER_BYTES + b"\r\n\r\n",
        b"x: " + b"v" * (MAX_HEADER_BYTES + 1),
        b"n" * (MAX_HEADER_BYTES + 1),
        b"a: b\r\n" * 2_000_000,
        b"x: " + b"v" * 20_000_000 + b"\r\n\r\n",
    ],
    ids=["fields", "one value", "a value without end", "a name without end", "12 MB of fields", "one value of 20 MB"],
)
def test_headers_above_the_limit_are_a_431_and_closed_before_the_key(port: int, headers: bytes) -> None:
    before = psutil.Process().memory_info().rss
    assert status_and_code(exchange(port, START + headers)) == (431, "headers_too_large")
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_request_line_and_trailers_count_as_headers(port: int, hasty_port: int) -> None:
    line = b"GET /" + b"a" * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert status_and_code(exchange(port, line))[0] == 431
    chunked = b"POST /ui HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
    assert b" 431 " in exchange(hasty_port, chunked + b"t: v\r\n" * 1000 + b"\r\n")
    assert b" 431 " in exchange(hasty_port, chunked + b"t: " + b"v" * 2_000_000)


def test_headers_below_the_limit_and_large_bodies_pass(port: int, hasty_port: int) -> None:
    close = b"Connection: close\r\n"
    many = START + close + b"a: b\r\n" * (MAX_HEADER_FIELDS - 3) + b"\r\n"
    assert status_and_code(exchange(port, many.replace(b"GET /", b"GET /v1/models"))) == (401, "invalid_api_key")
    long = START + close + b"x: " + b"v" * (MAX_HEADER_BYTES - 200) + b"\r\n\r\n"
    assert exchange(hasty_port, long).startswith(b"HTTP/1.1 200")
    body = b"POST / HTTP/1.1\r\nHost: localhost\r\n" + close + b"Content-Length: 3000000\r\n\r\n" + b"v" * 3_000_000
    assert exchange(hasty_port, body).endswith(b"3000000")
    chunk = b"POST / HTTP/1.1\r\nHost: localhost\r\n" + close + b"Transfer-Encoding: chunked\r\n\r\n"
    assert exchange(hasty_port, chunk + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n").endswith(b"100000")
    two = START + b"\r\n" + START + close + b"\r\n"
    assert exchange(hasty_port, two).count(b"HTTP/1.1 200") == 2


def test_half_sent_requests_are_closed_in_time(hasty_port: int) -> None:
    began = time.monotonic()
    half = [socket.create_connection(("127.0.0.1", hasty_port), 10) for _ in range(100)]
    for number, connection in enumerate(half):
        connection.sendall((b"", START, b"GET", b"\r\n", START + b"X-Slow: ")[number % 5])
    answers = [read_to_end(connection) for connection in half]
    for connection in half:
        connection.close()
    assert time.monotonic() - began < 8
    assert all(b"headers_too_slow" in a for a in answers[1::5]) and not any(answers[0::5])


def test_dripped_headers_do_not_extend_the_deadline(hasty_port: int) -> None:
    with socket.create_connection(("127.0.0.1", hasty_port), 10) as connection:
        connection.sendall(START + b"x: ")
        began = time.monotonic()
        while time.monotonic() - began < 5:
            try:
                connection.sendall(b"v")
            except OSError:
                break
            connection.settimeout(0.05)
            try:
                if connection.recv(1000):
                    break
            except TimeoutError:
                continue
        assert time.monotonic() - began < 4


def test_a_slow_body_is_not_a_slow_header(hasty_port: int) -> None:
    with socket.create_connection(("127.0.0.1", hasty_port), 10) as connection:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
        connection.sendall(head + b"a")
        connection.settimeout(Hasty.header_seconds * 2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        connection.sendall(b"bcd")
        assert read_to_end(connection).startswith(b"HTTP/1.1 200")


def test_a_connection_in_use_outlives_the_deadline_of_its_first_request(hasty_port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", hasty_port, timeout=10)
    connection.connect()
    first = connection.sock
    began = time.monotonic()
    while time.monotonic() - began < Hasty.header_seconds * 3:
        connection.request("POST", "/", b"abc")
        assert connection.getresponse().read() == b"3"
        time.sleep(Hasty.header_seconds / 4)
    assert connection.sock is first
    connection.close()
