"""`/v1/completions`: continuing raw text."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ninestory.runtimes.protocol import Chunk, Finished, Text, TokenLogprob, Usage
from ninestory.serving.context import GatewayContext
from ninestory.serving.floors.chat.chat import usage_object
from ninestory.serving.schemas import CompletionsRequest
from ninestory.serving.streaming import DONE, event, stream

Chunks = AsyncIterator[tuple[int, Chunk]]  # (place of the prompt, an engine's chunk)


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["completions"])

    @routes.post("/v1/completions", response_model=None)
    async def completions(body: CompletionsRequest, request: Request) -> dict[str, Any] | Response:
        """Continue a prompt, or each of a list of prompts; streamed when `stream` is true.

        The choices of prompt i have the indices i * n to i * n + n - 1.
        """
        requests = body.to_requests(context.settings.serve.max_n)
        answer = CompletionAnswer(body, requests[0].n)
        chunks = context.ask_all(request, body.model, requests)
        if body.stream:
            return await stream(request, answer.events(chunks))
        return await answer.completion(chunks)

    return routes


class CompletionAnswer:
    """Builds OpenAI's objects from the engine's chunks.

    Args:
        n: choices a prompt.
    """

    def __init__(self, body: CompletionsRequest, n: int) -> None:
        self._body, self._n = body, n
        self._head: dict[str, Any] = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
        }
        self._usage = Usage(prompt_tokens=0)  # of all prompts

    async def completion(self, chunks: Chunks) -> dict[str, Any]:
        """The whole answer."""
        choices: dict[int, dict[str, Any]] = {}
        async for piece in self._pieces(chunks):
            choice = choices.setdefault(piece["index"], _choice(piece["index"]))
            choice["text"] += piece["text"]
            choice["logprobs"] = _joined(choice["logprobs"], piece["logprobs"])
            choice["finish_reason"] = piece["finish_reason"]
        return {**self._head, "choices": [choices[i] for i in sorted(choices)], "usage": usage_object(self._usage)}

    async def events(self, chunks: Chunks) -> AsyncIterator[bytes]:
        """The answer as a stream of pieces."""
        async for piece in self._pieces(chunks):
            yield event({**self._head, "choices": [piece]})
        if self._body.stream_options and self._body.stream_options.include_usage:
            yield event({**self._head, "choices": [], "usage": usage_object(self._usage)})
        yield DONE

    async def _pieces(self, chunks: Chunks) -> AsyncIterator[dict[str, Any]]:
        """Pieces of choices; the usage is added up on the way."""
        async for prompt, chunk in chunks:
            if isinstance(chunk, Text):
                index = prompt * self._n + chunk.index
                yield {**_choice(index), "text": chunk.text, "logprobs": _logprobs(chunk.logprobs)}
            elif isinstance(chunk, Finished):
                yield {**_choice(prompt * self._n + chunk.index), "finish_reason": chunk.reason}
            elif isinstance(chunk, Usage):
                self._usage = chunk.beside(self._usage)


def _choice(index: int) -> dict[str, Any]:
    return {"index": index, "text": "", "logprobs": None, "finish_reason": None}


def _logprobs(entries: list[TokenLogprob]) -> dict[str, Any] | None:
    """Completions write log-probabilities as parallel lists."""
    if not entries:
        return None
    return {
        "tokens": [_spelling(e) for e in entries],
        "token_logprobs": [e.logprob for e in entries],
        "top_logprobs": [_alternatives(e) for e in entries],
        "text_offset": [e.text_offset for e in entries],
    }


def _alternatives(entry: TokenLogprob) -> dict[str, float] | None:
    """The likeliest tokens and the token itself. Of two tokens of one spelling the likelier is named."""
    if entry.logprob is None:
        return None
    named: dict[str, float] = {}
    for token in (*entry.top, entry):
        if token.logprob is not None:
            named.setdefault(_spelling(token), token.logprob)
    return named


def _spelling(entry: TokenLogprob) -> str:
    """A token's text; of one that is a part of a character its bytes, written as OpenAI does: bytes:\\xe4\\xb8."""
    data = bytes(entry.bytes)
    try:
        return data.decode() if data else entry.token
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _joined(a: dict[str, Any] | None, b: dict[str, Any] | None) -> dict[str, Any] | None:
    if a is None or b is None:
        return a or b
    return {key: a[key] + b[key] for key in a}
