"""`/v1/messages` as Anthropic has it, so that its official client and tools built on it can be pointed here."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ninestory.runtimes.protocol import (
    Chunk,
    Finished,
    Prefill,
    Text,
    TokenizeRequest,
    Tokens,
    ToolCallDelta,
    Usage,
)
from ninestory.serving.context import GatewayContext
from ninestory.serving.errors import AnthropicErrorBody, documented
from ninestory.serving.floors.chat.messages_schemas import CountRequest, MessagesRequest, chat_request, conversation
from ninestory.serving.streaming import event, stream

Event = dict[str, Any]

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["messages"], responses=documented(AnthropicErrorBody))

    @routes.post("/v1/messages", response_model=None)
    async def create(body: MessagesRequest, request: Request) -> dict[str, Any] | Response:
        """Answer a conversation; streamed when `stream` is true."""
        chunks = context.ask(request, body.model, chat_request(body))
        builder = MessageBuilder(body.model)
        if body.stream:
            return await stream(request, _lines(builder, chunks), lambda data: event(data, "error"))
        async for chunk in chunks:
            for _ in builder.add(chunk):
                pass
        for _ in builder.finish():
            pass
        return builder.message

    @routes.post("/v1/messages/count_tokens")
    async def count_tokens(body: CountRequest, request: Request) -> dict[str, Any]:
        """The tokens that a conversation would take, rendered by the model's template."""
        question = TokenizeRequest(messages=conversation(body.messages, body.system))
        count = 0
        async for chunk in context.ask(request, body.model, question):
            count += len(chunk.ids) if isinstance(chunk, Tokens) else 0
        return {"input_tokens": count}

    return routes


async def _lines(builder: MessageBuilder, chunks: AsyncIterator[Chunk]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        for item in builder.add(chunk):
            yield event(item, item["type"])
    for item in builder.finish():
        yield event(item, item["type"])


class MessageBuilder:
    """Builds one message out of an engine's chunks, and the events that tell a stream's reader of it."""

    def __init__(self, model: str) -> None:
        self.message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 0,
                "output_tokens": 0,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            },
        }
        self._started = False
        self._open: dict[str, Any] | None = None
        self._open_position = -1  # of the tool call being written
        self._arguments = ""

    def add(self, chunk: Chunk) -> Iterator[Event]:
        """The events of one chunk of the engine."""
        if isinstance(chunk, Prefill):
            self.message["usage"]["input_tokens"] = chunk.total
        if isinstance(chunk, Text | ToolCallDelta):
            yield from self._start()
        if isinstance(chunk, Text) and chunk.reasoning:
            yield from self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield from self._extend("thinking", "thinking_delta", "thinking", chunk.text)
        elif isinstance(chunk, Text):
            yield from self._begin("text", {"type": "text", "text": "", "citations": None})
            yield from self._extend("text", "text_delta", "text", chunk.text)
        elif isinstance(chunk, ToolCallDelta):
            yield from self._add_call(chunk)
        elif isinstance(chunk, Finished):
            stopped_by_string = chunk.reason == "stop" and chunk.stop is not None
            self.message["stop_reason"] = "stop_sequence" if stopped_by_string else _STOP_REASONS[chunk.reason]
            self.message["stop_sequence"] = chunk.stop
        elif isinstance(chunk, Usage):
            self._count(chunk)

    def finish(self) -> Iterator[Event]:
        """Close what is open and end the message."""
        yield from self._start()
        yield from self._close()
        yield {
            "type": "message_delta",
            "delta": {key: self.message[key] for key in ("stop_reason", "stop_sequence")},
            "usage": self.message["usage"],
        }
        yield {"type": "message_stop"}

    def _start(self) -> Iterator[Event]:
        if not self._started:
            self._started = True
            yield {"type": "message_start", "message": {**self.message, "content": []}}

    def _add_call(self, chunk: ToolCallDelta) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "tool_use" or chunk.position != self._open_position:
            yield from self._close()
            self._open_position, self._arguments = chunk.position, ""
            block: dict[str, Any] = {"type": "tool_use", "id": chunk.id, "name": chunk.name, "input": {}}
            yield from self._begin("tool_use", block)
        if chunk.arguments:
            self._arguments += chunk.arguments
            yield self._delta("input_json_delta", "partial_json", chunk.arguments)

    def _begin(self, block_type: str, block: dict[str, Any]) -> Iterator[Event]:
        """Open a block of this type unless one is open."""
        if self._open is not None and self._open["type"] == block_type:
            return
        yield from self._close()
        self._open = block
        self.message["content"].append(block)
        yield {"type": "content_block_start", "index": self._index, "content_block": dict(block)}

    def _extend(self, field: str, delta_type: str, delta_field: str, text: str) -> Iterator[Event]:
        assert self._open is not None
        self._open[field] += text
        yield self._delta(delta_type, delta_field, text)

    def _close(self) -> Iterator[Event]:
        block, self._open = self._open, None
        if block is None:
            return
        if block["type"] == "tool_use":
            block["input"] = _parsed(self._arguments)
        yield {"type": "content_block_stop", "index": self._index}

    def _delta(self, delta_type: str, field: str, text: str) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": {"type": delta_type, field: text}}

    @property
    def _index(self) -> int:
        return len(self.message["content"]) - 1

    def _count(self, chunk: Usage) -> None:
        """Anthropic counts what was read from the cache apart."""
        self.message["usage"] |= {
            "input_tokens": chunk.prompt_tokens - chunk.cached_tokens,
            "cache_read_input_tokens": chunk.cached_tokens,
            "output_tokens": chunk.completion_tokens,
        }


def _parsed(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object Anthropic's shape wants; cut off by max_tokens they are no JSON."""
    try:
        value = json.loads(arguments or "{}")
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
