"""Any OpenAI-compatible endpoint as an engine; this is how ChatGPT itself is used. httpx only, no vendor's client."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, InvalidRequest, RemoteFailed, Unauthorized, Unsupported
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    EmbeddingRequest,
    Embeddings,
    EngineInfo,
    Finished,
    Message,
    Request,
    Started,
    Text,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 10.0, 120.0, 4
_REASONS = ("stop", "length", "tool_calls", "content_filter")
_RETRIED = {408, 409, 429, 500, 502, 503, 504}


class RemoteEngine:
    """A model behind a base URL (OPENAI_BASE_URL) and a key (OPENAI_API_KEY)."""

    def __init__(self, model: ResolvedModel, settings: RuntimeSettings) -> None:
        import httpx

        self._name = model.reference.partition(":")[2]
        _check_url(model.endpoint)
        key = os.environ.get("OPENAI_API_KEY", "")
        self._client = httpx.Client(
            base_url=model.endpoint.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        )
        self.info = EngineInfo(
            model=model.reference,
            runtime="remote",
            architecture="remote",
            tasks=["chat", "embedding"],
            context=model.context,
            slots=16,
            notes=[f"asks {urlsplit(model.endpoint).netloc}: texts leave this machine"],
        )

    def run(self, request: Request, cancel: threading.Event) -> Iterator[Chunk]:
        if isinstance(request, ChatRequest):
            return self._chat(request, cancel)
        if isinstance(request, EmbeddingRequest):
            return self._embed(request, cancel)
        raise Unsupported(
            f"A remote model cannot answer {request.kind!r} requests.", hint="Use chat.", hint_zh="请使用对话。"
        )

    def close(self) -> None:
        self._client.close()

    # --- chat ---------------------------------------------------------------------------------------------------

    def _chat(self, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
        began, first = time.perf_counter(), 0.0
        usage: dict[str, Any] = {}
        yield Started(seed=request.sampling.seed or 0)
        with self._stream("chat/completions", _body(self._name, request), cancel) as lines:
            for data in _events(lines, cancel):
                usage = data.get("usage") or usage
                for choice in data.get("choices", []):
                    first = first or time.perf_counter()
                    yield from _chunks(choice)
        now = time.perf_counter()
        details = usage.get("prompt_tokens_details") or {}
        yield Usage(
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            cached_tokens=details.get("cached_tokens") or 0,
            prefill_seconds=(first or now) - began,
            decode_seconds=now - (first or now),
        )

    def _embed(self, request: EmbeddingRequest, cancel: threading.Event) -> Iterator[Chunk]:
        with self._stream("embeddings", {"model": self._name, "input": request.inputs}, cancel) as response:
            answer = json.loads(response.read())
        rows = sorted(answer["data"], key=lambda row: row["index"])
        yield Embeddings(vectors=[r["embedding"] for r in rows], prompt_tokens=answer["usage"]["prompt_tokens"])

    # --- the wire -----------------------------------------------------------------------------------------------

    def _stream(self, path: str, body: dict[str, Any], cancel: threading.Event) -> _Opened:
        """Open a response, trying again with growing pauses while nothing was answered yet."""
        import httpx

        for attempt in range(1, ATTEMPTS + 1):
            pause = min(0.5 * 2 ** (attempt - 1), 8.0)
            try:
                response = self._client.send(self._client.build_request("POST", path, json=body), stream=True)
            except httpx.TransportError as error:
                failure: Exception = RemoteFailed(
                    f"The endpoint {self._client.base_url.host} could not be reached: {type(error).__name__}.",
                    hint="Check the network and OPENAI_BASE_URL.",
                    hint_zh="请检查网络与 OPENAI_BASE_URL。",
                )
            else:
                if response.is_success:
                    return _Opened(response)
                failure = _refused(response)
                status, pause = response.status_code, _retry_after(response, pause)
                response.close()
                if status not in _RETRIED:
                    raise failure
            if attempt == ATTEMPTS:
                raise failure
            if cancel.wait(pause):
                raise Cancelled("The request was cancelled.")
        raise AssertionError("unreachable")


class _Opened:
    """A streamed response that is closed with the block."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __enter__(self) -> Any:
        return self._response

    def __exit__(self, *_: object) -> None:
        self._response.close()


def _events(response: Any, cancel: threading.Event) -> Iterator[dict[str, Any]]:
    import httpx

    try:
        for line in response.iter_lines():
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            if line.startswith("data:") and line[5:].strip() != "[DONE]":
                data = json.loads(line[5:])
                if "error" in data:
                    raise RemoteFailed(f"The endpoint broke off: {data['error'].get('message', data['error'])}")
                yield data
    except (httpx.TransportError, ValueError) as error:
        raise RemoteFailed(
            f"The endpoint broke off in mid-answer ({type(error).__name__}).",
            hint="Send the request again.",
            hint_zh="请重新发送请求。",
        ) from error


def _chunks(choice: dict[str, Any]) -> Iterator[Chunk]:
    index, delta = choice["index"], choice.get("delta", {})
    if text := delta.get("reasoning_content"):
        yield Text(index=index, text=text, reasoning=True)
    if text := delta.get("content"):
        entries = (choice.get("logprobs") or {}).get("content") or []
        yield Text(index=index, text=text, logprobs=[_logprob(e) for e in entries])
    for call in delta.get("tool_calls") or []:
        function = call.get("function", {})
        yield ToolCallDelta(
            index=index,
            position=call["index"],
            id=call.get("id"),
            name=function.get("name"),
            arguments=function.get("arguments") or "",
        )
    if reason := choice.get("finish_reason"):
        yield Finished(index=index, reason=reason if reason in _REASONS else "stop")


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    top = [_logprob(t) for t in entry.get("top_logprobs", [])]
    return TokenLogprob(token=entry["token"], logprob=entry["logprob"], bytes=entry.get("bytes") or [], top=top)


def _body(name: str, request: ChatRequest) -> dict[str, Any]:
    """The request as OpenAI writes it; what it has no field for is refused by name."""
    sampling = request.sampling
    for field in ("top_k", "min_p", "repetition_penalty"):
        if getattr(sampling, field) is not None:
            raise Unsupported(
                f"A remote model takes no {field}.", hint="Leave it out.", hint_zh="请去掉。", param=field
            )
    if request.truncation != "disabled" or request.continue_final_message:
        raise Unsupported("A remote model takes neither truncation nor continue_final_message.", param="truncation")
    optional = {
        "max_completion_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": request.stop or None,
        "n": request.n if request.n > 1 else None,
        "presence_penalty": sampling.presence_penalty or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "logit_bias": sampling.logit_bias or None,
        "logprobs": True if request.logprobs is not None else None,
        "top_logprobs": request.logprobs or None,
    }
    body: dict[str, Any] = {
        "model": name,
        "messages": [_message(m) for m in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **{k: v for k, v in optional.items() if v is not None},
    }
    if request.tools:
        body["tools"] = [{"type": "function", "function": dataclasses.asdict(t)} for t in request.tools]
        named = request.tool_choice not in ("none", "auto", "required")
        body["tool_choice"] = (
            {"type": "function", "function": {"name": request.tool_choice}} if named else request.tool_choice
        )
    if request.constraint:
        if request.constraint.json_schema is None:
            raise Unsupported("A remote model takes only a JSON schema as constraint.", param="constraint")
        schema = {"name": "answer", "schema": request.constraint.json_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _message(message: Message) -> dict[str, Any]:
    data: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.name:
        data["name"] = message.name
    if message.tool_calls:
        data["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        data["tool_call_id"] = message.tool_call_id
    return data


def _refused(response: Any) -> Exception:
    response.read()
    try:
        words = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        words = response.text[:200]
    if response.status_code in (401, 403):
        return Unauthorized(
            f"The endpoint refused the key ({response.status_code}): {words}",
            hint="Set OPENAI_API_KEY to a valid key.",
            hint_zh="请将 OPENAI_API_KEY 设为有效的密钥。",
        )
    return RemoteFailed(
        f"The endpoint answered {response.status_code}: {words}",
        hint="The words are the endpoint's own.",
        hint_zh="以上为该服务端返回的原文。",
        remote_status=response.status_code,
    )


def _retry_after(response: Any, otherwise: float) -> float:
    try:
        return min(float(response.headers["retry-after"]), 30.0)
    except (KeyError, ValueError):
        return otherwise


def _check_url(url: str) -> None:
    """A key and texts travel only over TLS, or to this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise InvalidRequest(
            f"The endpoint {url!r} is neither https nor on this machine.",
            hint="Set OPENAI_BASE_URL to an https address.",
            hint_zh="请将 OPENAI_BASE_URL 设为 https 地址。",
            code="insecure_endpoint",
        )
