"""`/v1/completions`: continuing raw text."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ninestory.runtimes.protocol import Chunk, Finished, Text, Usage
from ninestory.serving.context import GatewayContext
from ninestory.serving.routes.chat import usage_object
from ninestory.serving.schemas import CompletionsRequest
from ninestory.serving.streaming import DONE, event, stream


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["completions"])

    @routes.post("/v1/completions", response_model=None)
    async def completions(body: CompletionsRequest, request: Request) -> dict[str, Any] | Response:
        """Continue a prompt; streamed when `stream` is true."""
        chunks = context.ask(request, body.model, body.to_request(context.settings.serve.max_n))
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
        }
        if body.stream:
            return await stream(request, _events(head, body, chunks))
        return await _whole(head, chunks)

    return routes


async def _whole(head: dict[str, Any], chunks: AsyncIterator[Chunk]) -> dict[str, Any]:
    choices: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    async for chunk in chunks:
        if isinstance(chunk, Text):
            choice = choices.setdefault(chunk.index, _choice(chunk.index))
            choice["text"] += chunk.text
            choice["logprobs"] = _joined(choice["logprobs"], _logprobs(chunk))
        elif isinstance(chunk, Finished):
            choices.setdefault(chunk.index, _choice(chunk.index))["finish_reason"] = chunk.reason
        elif isinstance(chunk, Usage):
            usage = usage_object(chunk)
    return {**head, "choices": [choices[i] for i in sorted(choices)], "usage": usage}


async def _events(head: dict[str, Any], body: CompletionsRequest, chunks: AsyncIterator[Chunk]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if isinstance(chunk, Text):
            choice = {**_choice(chunk.index), "text": chunk.text, "logprobs": _logprobs(chunk)}
            yield event({**head, "choices": [choice]})
        elif isinstance(chunk, Finished):
            yield event({**head, "choices": [{**_choice(chunk.index), "finish_reason": chunk.reason}]})
        elif isinstance(chunk, Usage) and body.stream_options and body.stream_options.include_usage:
            yield event({**head, "choices": [], "usage": usage_object(chunk)})
    yield DONE


def _choice(index: int) -> dict[str, Any]:
    return {"index": index, "text": "", "logprobs": None, "finish_reason": None}


def _logprobs(chunk: Text) -> dict[str, Any] | None:
    """Completions write log-probabilities as parallel lists."""
    entries = chunk.logprobs
    if not entries:
        return None
    return {
        "tokens": [e.token for e in entries],
        "token_logprobs": [e.logprob for e in entries],
        "top_logprobs": [{t.token: t.logprob for t in e.top} for e in entries],
        "text_offset": [],
    }


def _joined(a: dict[str, Any] | None, b: dict[str, Any] | None) -> dict[str, Any] | None:
    if a is None or b is None:
        return a or b
    return {key: a[key] + b[key] for key in a}
