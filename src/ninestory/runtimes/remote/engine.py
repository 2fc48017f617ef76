"""Any OpenAI-compatible endpoint as an engine; this is how ChatGPT itself is used. httpx only, no vendor's client."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, InvalidRequest, NinestoryError, RemoteFailed, Unauthorized
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.dispatch import Handler, dispatch
from ninestory.runtimes.openai_format import broke_off, chat_body, chunks_of, completion_body, not_taken
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    EngineInfo,
    Feed,
    Finished,
    Generation,
    Request,
    Started,
    ToolCallDelta,
    Usage,
)

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 10.0, 120.0, 4
_RETRIED = {408, 409, 429, 500, 502, 503, 504}
_CANCEL_POLL_SECONDS = 0.05  # only while the endpoint is silent
_MAX_WORDS = 300


class RemoteEngine:
    """A model behind a base URL (OPENAI_BASE_URL) and a key (`api_key`, else OPENAI_API_KEY).

    Raises:
        InvalidRequest: the address is neither https nor on this machine, and `runtime.allow_http` is off.
    """

    def __init__(self, model: ResolvedModel, settings: RuntimeSettings, api_key: str | None = None) -> None:
        import httpx

        self._name = model.reference.partition(":")[2]
        if not settings.allow_http:
            _check_url(model.endpoint)
        self._key = os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key
        self._lacks_key = api_key is None and not self._key and not _takes_no_key(model.endpoint)
        self._client = httpx.Client(
            base_url=model.endpoint.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        )
        self.info = EngineInfo(
            model=model.reference,
            runtime="remote",
            architecture="remote",
            tasks=["chat", "completion", "embedding"],
            context=model.context,
            slots=16,
            notes=[f"asks {urlsplit(model.endpoint).netloc}: texts leave this machine"],
        )

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        if self._lacks_key:  # it would be refused, and the texts would have left this machine for nothing
            raise Unauthorized(
                f"No key is set for {self._client.base_url.host}; nothing was sent.",
                hint="Set OPENAI_API_KEY (to any word if this endpoint wants none).",
                hint_zh="请设置 OPENAI_API_KEY（若该服务端不需要密钥，可填任意字符）。",
            )
        handlers: dict[str, Handler] = {"chat": self._chat, "completion": self._complete, "embedding": self._embed}
        return dispatch(self, handlers, request, cancel, feed)

    def close(self) -> None:
        self._client.close()

    # --- requests -----------------------------------------------------------------------------------------------

    def _chat(self, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
        return self._generate("chat/completions", chat_body(self._name, request), request, cancel)

    def _complete(self, request: CompletionRequest, cancel: threading.Event) -> Iterator[Chunk]:
        return self._generate("completions", completion_body(self._name, request), request, cancel)

    def _generate(
        self, path: str, body: dict[str, Any], request: Generation, cancel: threading.Event
    ) -> Iterator[Chunk]:
        began, first, finished = time.perf_counter(), 0.0, 0
        usage: dict[str, Any] = {}
        tools = request.tools if isinstance(request, ChatRequest) and request.tool_choice != "none" else []
        offered = {tool.name for tool in tools}
        yield Started(seed=request.sampling.seed)
        for data in self._events(path, body, cancel):
            usage = data.get("usage") or usage
            for choice in data.get("choices", []):
                first = first or time.perf_counter()
                for chunk in chunks_of(choice):
                    finished += isinstance(chunk, Finished)
                    if isinstance(chunk, ToolCallDelta) and (not offered or (chunk.name and chunk.name not in offered)):
                        raise broke_off(f"it called {str(chunk.name)[:80]!r}, a function that was not offered")
                    yield chunk
        if finished < request.n:
            raise broke_off("it ended without saying that it was done")
        now = time.perf_counter()
        yield Usage(
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
            prefill_seconds=(first or now) - began,
            decode_seconds=now - (first or now),
        )

    def _embed(self, request: EmbeddingRequest, cancel: threading.Event) -> Iterator[Chunk]:
        if request.role:
            raise not_taken("input_type")
        lines = self._lines("embeddings", {"model": self._name, "input": request.inputs}, cancel)
        try:
            answer = json.loads("\n".join(lines))
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = [[float(x) for x in row["embedding"]] for row in rows]
            tokens = int(answer["usage"]["prompt_tokens"])
        except (ValueError, KeyError, TypeError) as error:
            raise broke_off(f"its answer holds no embeddings ({error!r})") from error
        yield Embeddings(vectors=vectors, prompt_tokens=tokens)

    def _events(self, path: str, body: dict[str, Any], cancel: threading.Event) -> Iterator[dict[str, Any]]:
        """The server-sent events of a streamed answer."""
        for line in self._lines(path, body, cancel):
            if not line.startswith("data:") or line[5:].strip() == "[DONE]":
                continue
            try:
                data = json.loads(line[5:])
            except ValueError as error:
                raise broke_off("an event is not JSON") from error
            if not isinstance(data, dict) or data.get("error"):
                raise broke_off(self._words(data))
            yield data

    # --- the wire -----------------------------------------------------------------------------------------------

    def _lines(self, path: str, body: dict[str, Any], cancel: threading.Event) -> Iterator[str]:
        """Lines of the answer. A thread reads them, so that a cancel need not wait for a silent endpoint."""
        lines: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        abandoned = threading.Event()

        def read() -> None:
            try:
                with self._opened(path, body, abandoned) as response:
                    for line in response.iter_lines():
                        if abandoned.is_set():
                            return
                        lines.put(line)
                lines.put(None)
            except Exception as error:
                lines.put(error)

        threading.Thread(target=read, name="remote-request", daemon=True).start()
        try:
            while True:
                line: str | Exception | None = ""
                with contextlib.suppress(queue.Empty):
                    line = lines.get(timeout=_CANCEL_POLL_SECONDS)
                if cancel.is_set():
                    raise Cancelled("The request was cancelled.")
                if line is None:
                    return
                if isinstance(line, NinestoryError):
                    raise line
                if isinstance(line, Exception):
                    raise broke_off(type(line).__name__) from line
                yield line
        finally:
            abandoned.set()

    @contextlib.contextmanager
    def _opened(self, path: str, body: dict[str, Any], abandoned: threading.Event) -> Iterator[Any]:
        """A successful response; tried again with growing pauses as long as nothing was answered."""
        import httpx

        for attempt in range(1, ATTEMPTS + 1):
            pause = min(0.5 * 2 ** (attempt - 1), 8.0)
            try:
                with self._client.stream("POST", path, json=body) as response:
                    if response.is_success:
                        yield response
                        return
                    response.read()
                    failure = self._refused(response)
                    pause = _retry_after(response, pause)
                    if response.status_code not in _RETRIED:
                        raise failure
            except httpx.ConnectError as error:
                failure = RemoteFailed(
                    f"The endpoint {self._client.base_url.host} could not be reached: {type(error).__name__}.",
                    hint="Check the network and OPENAI_BASE_URL.",
                    hint_zh="请检查网络与 OPENAI_BASE_URL。",
                )
            if attempt == ATTEMPTS or abandoned.wait(pause):
                raise failure

    def _refused(self, response: Any) -> NinestoryError:
        status = response.status_code
        try:
            words = self._words(response.json())
        except ValueError:
            words = self._words(response.text)
        if status in (401, 403):
            return Unauthorized(
                f"The endpoint refused the key ({status}): {words}",
                hint="Set OPENAI_API_KEY to a valid key.",
                hint_zh="请将 OPENAI_API_KEY 设为有效的密钥。",
            )
        return RemoteFailed(
            f"The endpoint answered {status}: {words}",
            hint="The words are the endpoint's own.",
            hint_zh="以上为该服务端返回的原文。",
            remote_status=status,
        )

    def _words(self, answer: Any) -> str:
        """The endpoint's own words, shortened, without the key (some repeat it)."""
        error = answer.get("error", answer) if isinstance(answer, dict) else answer
        text = str(error.get("message", error) if isinstance(error, dict) else error)
        return (text.replace(self._key, "<key>") if self._key else text)[:_MAX_WORDS]


def _retry_after(response: Any, otherwise: float) -> float:
    """The pause the endpoint asks for in seconds, within reason."""
    try:
        return max(0.0, min(float(response.headers["retry-after"]), 30.0))
    except (KeyError, ValueError):
        return otherwise


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _takes_no_key(url: str) -> bool:
    """Whether an endpoint may well want none: a server on this machine, or one in a network that the user trusts."""
    return _is_loopback(url) or urlsplit(url).scheme == "http"


def _check_url(url: str) -> None:
    """A key and texts travel only over TLS, or to this machine."""
    scheme = urlsplit(url).scheme
    if scheme != "https" and not (scheme == "http" and _is_loopback(url)):
        raise InvalidRequest(
            f"The endpoint {url!r} is neither https nor on this machine.",
            hint="Set OPENAI_BASE_URL to an https address, or runtime.allow_http to true for a network you trust.",
            hint_zh="请将 OPENAI_BASE_URL 设为 https 地址；若网络可信，可将 runtime.allow_http 设为 true。",
            code="insecure_endpoint",
        )
