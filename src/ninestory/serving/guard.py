"""The one door: Host, Origin, API key, body size and JSON depth are checked here, before any route runs.

A pure ASGI class: Starlette's BaseHTTPMiddleware costs 13 times as much a chunk.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from ninestory.core.config import ServeSettings
from ninestory.core.errors import Forbidden, InvalidRequest, NinestoryError, TooLarge, Unauthorized
from ninestory.serving.errors import error_body

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_JSON_DEPTH = 64
COOKIE = "ninestory_session"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_OPEN = ("/ui", "/health", "/ninestory/v1/session")
_UPLOADS = ("/v1/files", "/ninestory/v1/media")
# Possessive, and a string without an end is one match too: no body makes this walk back over itself.
_BRACKETS_AND_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?|[\[\]{}]', re.DOTALL)


class KeyCheck:
    """Compares keys and session cookies in constant time. The only place that knows the key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._session_secret = secrets.token_bytes(32)  # sessions end with the server

    @property
    def required(self) -> bool:
        return bool(self._key)

    def key_is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._key)

    def new_session(self) -> str:
        """A cookie value that proves that the key was given; it does not hold the key."""
        nonce = secrets.token_hex(16)
        return f"{nonce}.{self._sign(nonce)}"

    def session_is_right(self, cookie: str) -> bool:
        nonce, _, signature = cookie.partition(".")
        return bool(nonce) and hmac.compare_digest(signature.encode(), self._sign(nonce).encode())

    def signed_in(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request's headers carry the key or a session."""
        if not self.required:
            return True
        bearer = headers.get(b"authorization", b"").decode("latin-1")
        if bearer.lower().startswith("bearer "):
            return self.key_is_right(bearer[7:].strip())
        if given := headers.get(b"x-api-key", b"").decode("latin-1"):
            return self.key_is_right(given)
        cookies = headers.get(b"cookie", b"").decode("latin-1").split(";")
        values = [c.strip().removeprefix(f"{COOKIE}=") for c in cookies if c.strip().startswith(f"{COOKIE}=")]
        return any(self.session_is_right(value) for value in values)

    def _sign(self, nonce: str) -> str:
        return hmac.new(self._session_secret, nonce.encode(), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Any, settings: ServeSettings, keys: KeyCheck, on_done: Callable[..., None]) -> None:
        self._app, self._settings, self._keys, self._on_done = app, settings, keys, on_done
        self._hosts = _LOOPBACK | {settings.host} | set(settings.allowed_hosts)
        self._any_host = settings.host in ("0.0.0.0", "::")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
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

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
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
        is_open = path == "/" or any(path == p or path.startswith(f"{p}/") for p in _OPEN)
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
    """The Host header without its port; IPv6 addresses stand in brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The request body is larger than {limit >> 20} MB.",
        hint="Send less, or raise serve.max_body_mb (uploads: serve.max_upload_mb).",
        hint_zh="请减小内容，或调大 serve.max_body_mb（上传：serve.max_upload_mb）。",
    )


async def _respond(send: Send, error: NinestoryError, request_id: str, path: str) -> None:
    body = orjson.dumps(error_body(error, request_id, path))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
