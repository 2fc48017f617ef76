"""Our requests in OpenAI's JSON, and its streamed events as our chunks. Pure; `remote` does the talking."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ninestory.core.errors import RemoteFailed, Unsupported
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    Constraint,
    Finished,
    Generation,
    Message,
    Text,
    TokenLogprob,
    ToolCallDelta,
)

_REASONS = ("stop", "length", "tool_calls", "content_filter")


def chat_body(name: str, request: ChatRequest) -> dict[str, Any]:
    """Body of /chat/completions.

    Raises:
        Unsupported: a field that OpenAI has no word for, by name.
    """
    for field in ("continue_final_message", "template"):
        if getattr(request, field):
            raise not_taken(field)
    if request.thinking is not None:
        raise not_taken("reasoning_effort")
    body = _shared_body(name, request) | {"messages": [_message(m) for m in request.messages]}
    if request.max_tokens is not None:
        body["max_completion_tokens"] = request.max_tokens
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    if request.tools:
        body["tools"] = [{"type": "function", "function": dataclasses.asdict(t)} for t in request.tools]
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
        named = request.tool_choice not in ("none", "auto", "required")
        body["tool_choice"] = (
            {"type": "function", "function": {"name": request.tool_choice}} if named else request.tool_choice
        )
    if request.constraint:
        body["response_format"] = _response_format(request.constraint)
    return body


def completion_body(name: str, request: CompletionRequest) -> dict[str, Any]:
    """Body of /completions.

    Raises:
        Unsupported: a field that OpenAI has no word for, by name.
    """
    if request.constraint:
        raise not_taken("response_format")
    if request.logprobs is not None:
        raise not_taken("logprobs")  # the old endpoint's form has no bytes
    body = _shared_body(name, request) | {"prompt": request.prompt}
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    return body | ({"echo": True} if request.echo else {})


def chunks_of(choice: dict[str, Any]) -> Iterator[Chunk]:
    """One choice of an event; chat's have a `delta`, completions' a `text`.

    Raises:
        RemoteFailed: it has another shape.
    """
    try:
        index, delta = int(choice["index"]), choice.get("delta") or {}
        if text := delta.get("reasoning_content"):
            yield Text(index=index, text=text, reasoning=True)
        if text := delta.get("content") or delta.get("refusal") or choice.get("text"):
            entries = (choice.get("logprobs") or {}).get("content") or []
            yield Text(index=index, text=text, logprobs=[_logprob(e) for e in entries])
        for call in delta.get("tool_calls") or []:
            function = call.get("function") or {}
            yield ToolCallDelta(
                index=index,
                position=call.get("index", 0),
                id=call.get("id"),
                name=function.get("name"),
                arguments=function.get("arguments") or "",
            )
        if reason := choice.get("finish_reason"):
            yield Finished(index=index, reason=reason if reason in _REASONS else "stop")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise broke_off(f"an event has another shape ({error!r})") from error


def not_taken(field: str) -> Unsupported:
    return Unsupported(f"A remote model takes no {field}.", hint="Leave it out.", hint_zh="请去掉。", param=field)


def broke_off(why: str) -> RemoteFailed:
    return RemoteFailed(f"The endpoint broke off: {why}.", hint="Send the request again.", hint_zh="请重新发送请求。")


def _shared_body(name: str, request: Generation) -> dict[str, Any]:
    sampling = request.sampling
    for field in ("top_k", "min_p", "repetition_penalty"):
        if getattr(sampling, field) is not None:
            raise not_taken(field)
    if request.truncation != "disabled":
        raise not_taken("truncation")
    if request.adapters:
        raise not_taken("adapters")
    optional = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": request.stop or None,
        "n": request.n if request.n > 1 else None,
        "presence_penalty": sampling.presence_penalty or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "logit_bias": sampling.logit_bias or None,
    }
    given = {key: value for key, value in optional.items() if value is not None}
    return {"model": name, "stream": True, "stream_options": {"include_usage": True}, **given}


def _response_format(constraint: Constraint) -> dict[str, Any]:
    if constraint.json_schema is None:
        raise not_taken("constraint other than a JSON schema")
    if constraint.json_schema == {"type": "object"}:
        return {"type": "json_object"}
    schema = {"name": "answer", "schema": constraint.json_schema, "strict": True}
    return {"type": "json_schema", "json_schema": schema}


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


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    top = [_logprob(t) for t in entry.get("top_logprobs") or []]
    return TokenLogprob(token=entry["token"], logprob=entry["logprob"], bytes=entry.get("bytes") or [], top=top)
