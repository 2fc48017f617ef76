"""The one door: Host, Origin, API key, body size and JSON depth are checked here, before any route runs.

HTTP requests and WebSocket handshakes pass the same checks; every other kind of connection is refused.

A pure ASGI class: Starlette's BaseHTTPMiddleware costs 13 times as much a chunk.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson

from ninestory.core.config import ServeSettings
from ninestory.core.errors import Busy, Forbidden, InvalidRequest, NinestoryError, TooLarge, Unauthorized, Unsupported
from ninestory.serving.errors import error_body, retry_header

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_JSON_DEPTH = 64
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1
COOKIE = "ninestory_session"
MAX_SESSIONS = 10_000
FREE_ATTEMPTS, MAX_PAUSE_SECONDS = 5, 60.0
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_OPEN = ("/ui", "/health", "/ninestory/v1/session")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
# Read as one value here: of two, a proxy might have checked the other one.
_SINGLE = (b"host", b"origin", b"authorization", b"x-api-key", b"content-type", b"content-length")
_UPLOADS = ("/v1/files", "/ninestory/v1/media")
# Possessive, and a string without an end is one match too: no body makes this walk back over itself.
_BRACKETS_AND_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?|[\[\]{}]', re.DOTALL)


class KeyCheck:
    """Compares keys in constant time and keeps the sessions. The only place that knows the key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._sessions: dict[bytes, None] = {}  # hashes of cookies, oldest first; they end with the server
        self._attempts = FailedAttempts()

    @property
    def required(self) -> bool:
        return bool(self._key)

    def key_is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self._key)

    def sign_in(self, given: str, client: str) -> str:
        """A new session's cookie for a right key.

        Args:
            client: the address that the request came from; wrong keys slow down further attempts from it.

        Raises:
            Busy: too soon after wrong keys. Unauthorized: the key is wrong.
        """
        if self.required:
            self._attempts.check(client)
            if not self.key_is_right(given):
                self._attempts.add(client)
                raise Unauthorized(
                    "The API key is wrong.",
                    hint="It is the one the server was started with (--api-key or its file).",
                    hint_zh="请使用启动服务时设置的密钥（--api-key 或密钥文件）。",
                    param="api_key",
                )
            self._attempts.clear(client)
        return self.new_session()

    def new_session(self) -> str:
        """A cookie value that proves that the key was given; it does not hold the key."""
        cookie = secrets.token_hex(32)
        self._sessions[_digest(cookie)] = None
        if len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return cookie

    def session_is_right(self, cookie: str) -> bool:
        return _digest(cookie) in self._sessions

    def end_sessions(self, headers: dict[bytes, bytes]) -> None:
        """Sign out: the cookies of these headers are worth nothing from now on."""
        for cookie in _session_cookies(headers):
            self._sessions.pop(_digest(cookie), None)

    def signed_in(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request's headers carry the key or a session."""
        if not self.required:
            return True
        bearer = headers.get(b"authorization", b"").decode("latin-1")
        if bearer.lower().startswith("bearer "):
            return self.key_is_right(bearer[7:].strip())
        if given := headers.get(b"x-api-key", b"").decode("latin-1"):
            return self.key_is_right(given)
        return any(self.session_is_right(cookie) for cookie in _session_cookies(headers))


class FailedAttempts:
    """Wrong keys by client address: after a few, each further one doubles the time until the next is looked at."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[int, float]] = {}  # address → wrong keys in a row, moment of the last

    def check(self, client: str) -> None:
        """Raises Busy: too soon after wrong keys."""
        count, last = self._of.get(client, (0, 0.0))
        if count < FREE_ATTEMPTS:
            return
        pause = min(2.0 ** (count - FREE_ATTEMPTS), MAX_PAUSE_SECONDS)
        if (left := last + pause - time.monotonic()) > 0:
            raise Busy(
                f"{count} wrong keys came from this address; the next one is looked at in {math.ceil(left)} s.",
                hint="Wait, then send the key the server was started with.",
                hint_zh="请稍候，然后发送启动服务时设置的密钥。",
                code="too_many_wrong_keys",
                retry_after=math.ceil(left),
            )

    def add(self, client: str) -> None:
        count, _ = self._of.pop(client, (0, 0.0))
        self._of[client] = (count + 1, time.monotonic())
        if len(self._of) > MAX_SESSIONS:
            del self._of[next(iter(self._of))]

    def clear(self, client: str) -> None:
        self._of.pop(client, None)


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Any, settings: ServeSettings, keys: KeyCheck, on_done: Callable[..., None]) -> None:
        self._app, self._settings, self._keys, self._on_done = app, settings, keys, on_done
        self._hosts = _LOOPBACK | {settings.host} | set(settings.allowed_hosts)
        self._any_host = settings.host in ("0.0.0.0", "::")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise Unsupported(f"The connection type {scope['type']!r} is not supported; expected http or websocket.")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def send_with_id(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            headers = dict(scope["headers"])
            self._check(scope, headers)
            if b"json" in headers.get(b"content-type", b"") and scope["method"] in ("POST", "PUT", "PATCH"):
                receive = await self._read_json(scope, receive, headers)
            else:
                receive = self._counted(receive, self._stated_limit(scope["path"], headers))
            await self._app(scope, receive, send_with_id)
        except NinestoryError as error:
            if status:
                raise
            await _respond(send_with_id, error, request_id, scope["path"])
        finally:
            route = getattr(scope.get("route"), "path", "")  # the router leaves it here; "" for files of the page
            self._on_done(request_id, scope["method"], scope["path"], route, status, time.perf_counter() - started)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A handshake that fails the checks is refused before it is accepted (the client sees HTTP 403)."""
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 101
        try:
            self._check(scope, dict(scope["headers"]))
        except NinestoryError as error:
            status = 403
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error.code})
        try:
            if status == 101:
                await self._app(scope, receive, send)
        finally:
            route = getattr(scope.get("route"), "path", "")
            self._on_done(request_id, "WEBSOCKET", scope["path"], route, status, time.perf_counter() - started)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises InvalidRequest, Forbidden, Unauthorized: the headers of a request or handshake do not pass."""
        _check_single(scope["headers"])
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if host not in self._hosts and not (self._any_host and self._keys.required):
            raise Forbidden(
                f"The Host {host!r} is not one of this server's names.",
                hint="Add it with --allowed-hosts (serve.allowed_hosts).",
                hint_zh="请用 --allowed-hosts（serve.allowed_hosts）添加。",
                code="host_not_allowed",
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not self._origin_allowed(origin, headers.get(b"host", b"").decode("latin-1")):
            raise Forbidden(
                f"Requests from the origin {origin!r} are not allowed.",
                hint="Add it with --allowed-origins (serve.allowed_origins).",
                hint_zh="请用 --allowed-origins（serve.allowed_origins）添加。",
                code="origin_not_allowed",
            )
        path = scope["path"]
        is_open = scope["type"] == "http" and (path == "/" or any(path == p or path.startswith(f"{p}/") for p in _OPEN))
        if not is_open and not self._keys.signed_in(headers):
            raise Unauthorized(
                "The API key is missing or wrong.",
                hint="Send it as 'Authorization: Bearer KEY'.",
                hint_zh="请通过 “Authorization: Bearer 密钥” 发送。",
            )

    def _origin_allowed(self, origin: str, host: str) -> bool:
        return origin in (f"http://{host}", f"https://{host}") or origin in self._settings.allowed_origins

    def _limit(self, path: str) -> int:
        uploads = any(path.startswith(p) for p in _UPLOADS)
        return int((self._settings.max_upload_mb if uploads else self._settings.max_body_mb) * (1 << 20))

    def _stated_limit(self, path: str, headers: dict[bytes, bytes]) -> int:
        """The limit of a path, once the length that the client states keeps to it."""
        limit = self._limit(path)
        if int(headers.get(b"content-length", b"0") or 0) > limit:
            raise _too_large(limit)
        return limit

    async def _read_json(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> Receive:
        """Read the body within its limit and check its depth before anything parses it."""
        limit = self._stated_limit(scope["path"], headers)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                raise _too_large(limit)
        check_depth(body)
        given = False

        async def replay() -> dict[str, Any]:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        return replay

    @staticmethod
    def _counted(receive: Receive, limit: int) -> Receive:
        """Chunked bodies state no length: count while they are read."""
        seen = 0

        async def counting() -> dict[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
            return message

        return counting


def check_depth(body: bytes) -> None:
    """Refuse JSON nested deeper than any honest request, without parsing it."""
    if body.count(b"[") + body.count(b"{") <= MAX_JSON_DEPTH:
        return
    depth = 0
    for match in _BRACKETS_AND_STRINGS.finditer(body):
        first = body[match.start()]
        if first in b"]}":
            depth -= 1
        elif first in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise InvalidRequest(
                    f"The JSON is nested deeper than {MAX_JSON_DEPTH} levels.",
                    hint="Send flatter data.",
                    hint_zh="请发送层级更少的数据。",
                    code="json_too_deep",
                )


def _host_name(host: str) -> str:
    """The Host header without its port; IPv6 addresses stand in brackets.

    Raises:
        InvalidRequest: it is no host name or address (`user@host`, for one).
    """
    if not host:
        return ""
    match = _HOST.fullmatch(host)
    if match is None:
        raise InvalidRequest(
            f"The Host header is {host[:80]!r}; expected NAME or NAME:PORT.",
            hint="Send the host and port of the server's address alone.",
            hint_zh="请仅发送服务器地址中的主机名与端口。",
            code="invalid_host",
        )
    return match[1].strip("[]").lower()


def _check_single(headers: Iterable[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in headers if name in _SINGLE]
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1).decode("ascii")
        raise InvalidRequest(
            f"The header {twice!r} is sent {names.count(twice.encode())} times; expected one.",
            hint="Send it once.",
            hint_zh="该请求头只能发送一次。",
            code="repeated_header",
        )


def _session_cookies(headers: dict[bytes, bytes]) -> list[str]:
    cookies = headers.get(b"cookie", b"").decode("latin-1").split(";")
    return [c.strip().removeprefix(f"{COOKIE}=") for c in cookies if c.strip().startswith(f"{COOKIE}=")]


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The request body is larger than {limit >> 20} MB.",
        hint="Send less, or raise serve.max_body_mb (uploads: serve.max_upload_mb).",
        hint_zh="请减小内容，或调大 serve.max_body_mb（上传：serve.max_upload_mb）。",
    )


async def _respond(send: Send, error: NinestoryError, request_id: str, path: str) -> None:
    body = orjson.dumps(error_body(error, request_id, path))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in retry_header(error).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
