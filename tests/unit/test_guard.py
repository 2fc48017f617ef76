"""The door of the server: names, keys, sizes and depths, without a server behind it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from ninestory.core.config import ServeSettings
from ninestory.core.errors import Busy, InvalidRequest, Unauthorized
from ninestory.serving.guard import FREE_ATTEMPTS, MAX_JSON_DEPTH, Guard, KeyCheck, check_depth

DEEPEST = MAX_JSON_DEPTH * "[" + MAX_JSON_DEPTH * "]"


@pytest.mark.parametrize(
    "body",
    [DEEPEST, json.dumps({"text": "[" * 500}), json.dumps({"text": '\\"' + '"[{' * 200}), "[]" * 500, '"\\', '"' + "[" * 99],
)  # fmt: skip
def test_honest_json_passes(body: str) -> None:
    check_depth(body.encode())


@pytest.mark.parametrize("body", [f"[{DEEPEST}]", '{"a":' * 65, '["]]]",' * 65, "[" * 100_000])
def test_deep_json_is_refused(body: str) -> None:
    with pytest.raises(InvalidRequest, match="deeper than 64"):
        check_depth(body.encode())


@pytest.mark.parametrize("piece", [b'\\"', b'"', b'"\\', b"\\", b'{"a":"\\u0000"},'])
def test_the_depth_check_takes_time_in_proportion_to_the_body(piece: bytes) -> None:
    """A check that walks back over two megabytes would take hours, not seconds."""
    began = time.process_time()
    check_depth(b"[" + b"{}" * 70 + b'"' + piece * (2_000_000 // len(piece)))
    assert time.process_time() - began < 20


def call(
    guard: Guard,
    headers: dict[str, str],
    *,
    path: str = "/v1/models",
    pieces: tuple[bytes, ...] = (),
    scope_headers: list[tuple[bytes, bytes]] | None = None,
) -> Any:
    """(status, error code) of a request whose body comes in pieces."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": "POST" if pieces else "GET",
        "path": path,
        "headers": scope_headers or [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    assert any(name == b"x-request-id" for name, _ in sent[0]["headers"])
    body = sent[1]["body"]
    return sent[0]["status"], json.loads(body)["error"]["code"] if body else None


def a_guard(key: str = "", **settings: Any) -> Guard:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return Guard(app, ServeSettings(**settings), KeyCheck(key), lambda *_: None)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("tower.example", 200),
        ("", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::2]:8000", 403),
        ("evil.example:8000", 403),
        ("user@localhost", 400),
        ("localhost:80@evil.example", 400),
        ("localhost, evil.example", 400),
        ("localhost:999999", 400),
    ],
)
def test_only_the_servers_own_names_are_answered(host: str, status: int) -> None:
    assert call(a_guard(allowed_hosts=["tower.example"]), {"Host": host})[0] == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost", 200), ("https://page.example", 200), ("null", 403), ("http://localhost.evil.example", 403)],
)
def test_only_listed_origins_may_call(origin: str, status: int) -> None:
    guard = a_guard(allowed_origins=["https://page.example"])
    assert call(guard, {"Host": "localhost", "Origin": origin})[0] == status


def test_key_is_taken_three_ways_and_a_wrong_one_in_none() -> None:
    guard, host = a_guard("s3cret"), {"Host": "localhost"}
    cookie = guard._keys.new_session()
    for right in ({"Authorization": "Bearer s3cret"}, {"x-api-key": "s3cret"}, {"Cookie": f"a=b; ninestory_session={cookie}"}):  # fmt: skip
        assert call(guard, host | right) == (200, None)
    for wrong in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"}, {"x-api-key": ""}, {"Cookie": f"ninestory_session=x{cookie}"}, {"Cookie": "ninestory_session=."}):  # fmt: skip
        assert call(guard, host | wrong)[0] == 401
    for path, status in (("/health", 200), ("/ui/app.js", 200), ("/uix", 401), ("/healthy", 401), ("/metrics", 401)):
        assert call(guard, host, path=path)[0] == status


@pytest.mark.parametrize("name", ["Host", "Origin", "Authorization", "Content-Type"])
def test_a_header_that_is_checked_is_sent_once(name: str) -> None:
    """Of two a proxy in front may have checked the other one."""
    scope_headers = [(b"host", b"localhost"), (name.lower().encode(), b"localhost"), (name.lower().encode(), b"x")]
    assert call(a_guard(), {}, scope_headers=scope_headers) == (400, "repeated_header")


def test_a_signed_out_cookie_ends_and_others_stay() -> None:
    guard, host = a_guard("s3cret"), {"Host": "localhost"}
    first, second = (guard._keys.sign_in("s3cret", "10.0.0.1") for _ in range(2))
    guard._keys.end_sessions({b"cookie": f"a=b; ninestory_session={first}".encode()})
    assert call(guard, host | {"Cookie": f"ninestory_session={first}"})[0] == 401
    assert call(guard, host | {"Cookie": f"ninestory_session={second}"})[0] == 200


def test_sign_in_slows_after_wrong_keys_and_only_for_who_sent_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("ninestory.serving.guard.time.monotonic", lambda: clock[0])
    keys = KeyCheck("s3cret")
    for _ in range(FREE_ATTEMPTS):
        with pytest.raises(Unauthorized):
            keys.sign_in("wrong", "10.0.0.1")
    waits = []
    for _ in range(9):
        with pytest.raises(Busy) as refused:
            keys.sign_in("s3cret", "10.0.0.1")  # the right key too: else the answer would say that it is the right one
        waits.append(refused.value.details["retry_after"])
        clock[0] += waits[-1]
        with pytest.raises(Unauthorized):
            keys.sign_in("wrong", "10.0.0.1")
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert keys.sign_in("s3cret", "10.0.0.2")
    clock[0] += 60
    assert keys.sign_in("s3cret", "10.0.0.1")
    with pytest.raises(Unauthorized):  # counted from nothing again
        keys.sign_in("wrong", "10.0.0.1")


def test_sessions_and_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ninestory.serving.guard.MAX_SESSIONS", 3)
    keys = KeyCheck("s3cret")
    cookies = [keys.new_session() for _ in range(5)]
    assert [keys.session_is_right(cookie) for cookie in cookies] == [False, False, True, True, True]
    for number in range(5):
        with pytest.raises(Unauthorized):
            keys.sign_in("wrong", f"10.0.0.{number}")
    assert len(keys._attempts._of) == 3


def test_a_body_is_counted_when_its_length_is_not_stated() -> None:
    guard, million = a_guard(max_body_mb=1), b"x" * (1 << 20)
    for kind in ("application/json", "application/octet-stream"):
        headers = {"Host": "localhost", "Content-Type": kind}
        assert call(guard, headers, path="/v1/completions", pieces=(million, b"x")) == (413, "request_too_large")
        stated = headers | {"Content-Length": str((1 << 20) + 1)}
        assert call(guard, stated, path="/v1/completions", pieces=(b"x",)) == (413, "request_too_large")
    json_body = {"Host": "localhost", "Content-Type": "application/json"}
    assert call(guard, json_body, path="/v1/completions", pieces=(b"[]", b" ")) == (200, None)
