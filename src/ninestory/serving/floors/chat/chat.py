"""`/v1/chat/completions` as OpenAI has it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from ninestory.runtimes.protocol import Chunk, Finished, Started, Text, TokenLogprob, ToolCallDelta, Usage
from ninestory.serving.context import GatewayContext
from ninestory.serving.file_search import FileAnswer, answered, file_search_of
from ninestory.serving.floors.retrieval.vector_stores_schemas import FileSearchTool
from ninestory.serving.schemas import ChatCompletionRequest, Tool
from ninestory.serving.streaming import DONE, event, stream


class ChatBody(ChatCompletionRequest):
    """A chat request that may have its last question answered from vector stores."""

    tools: Annotated[list[Tool | FileSearchTool] | None, Field(max_length=128)] = None  # type: ignore[assignment]


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["chat"])

    @routes.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatBody, request: Request) -> dict[str, Any] | Response:
        """Answer a conversation; streamed when `stream` is true."""
        engine_request = body.to_request(context.settings.serve.max_n)
        tool = file_search_of(body.tools or [])
        chunks, found = await answered(context, request, body.model, engine_request, tool)
        answer = ChatAnswer(body, found)
        if body.stream:
            return await stream(request, answer.events(chunks))
        async for chunk in chunks:
            answer.take(chunk)
        return answer.completion()

    return routes


class ChatAnswer:
    """Builds OpenAI's objects from an engine's chunks."""

    def __init__(self, body: ChatCompletionRequest, found: FileAnswer | None = None) -> None:
        """`found`: what stands behind an answer from vector stores."""
        self._body, self._found = body, found
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": body.model,
        }
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] = {}
        self._extension: dict[str, Any] = {}

    def take(self, chunk: Chunk) -> None:
        """Account for one chunk."""
        if isinstance(chunk, Text):
            choice = self._choice(chunk.index)
            choice["reasoning" if chunk.reasoning else "text"] += chunk.text
            choice["logprobs"] += [_logprob(entry) for entry in chunk.logprobs]
        elif isinstance(chunk, Started):
            self._extension = {
                "seed": chunk.seed,
                "template": chunk.template,
                "dropped_messages": chunk.dropped_messages,
            }
        elif isinstance(chunk, ToolCallDelta):
            calls = self._choice(chunk.index)["tool_calls"]
            if chunk.id:
                calls.append({"id": chunk.id, "type": "function", "function": {"name": chunk.name, "arguments": ""}})
            calls[-1]["function"]["arguments"] += chunk.arguments
        elif isinstance(chunk, Finished):
            self._choice(chunk.index)["finish_reason"] = chunk.reason
        elif isinstance(chunk, Usage):
            self._usage = usage_object(chunk)
            self._extension |= {
                "prefill_seconds": round(chunk.prefill_seconds, 4),
                "decode_seconds": round(chunk.decode_seconds, 4),
            }

    def completion(self) -> dict[str, Any]:
        """The whole answer."""
        choices = []
        for index, choice in sorted(self._choices.items()):
            message: dict[str, Any] = {"role": "assistant", "content": choice["text"] or None, "refusal": None}
            if choice["reasoning"]:
                message["reasoning_content"] = choice["reasoning"]
            if choice["tool_calls"]:
                message["tool_calls"] = choice["tool_calls"]
            elif message["content"] is None:
                message["content"] = ""
            if self._found:
                message["annotations"] = self._found.annotations(choice["text"])
            logprobs = {"content": choice["logprobs"], "refusal": None} if self._body.logprobs else None
            choices.append(
                {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice["finish_reason"]}
            )
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self._usage,
            "ninestory": self._extension | self._search(),
        }

    def _search(self) -> dict[str, Any]:
        return {"file_search": self._found.call_item(with_results=True)} if self._found else {}

    async def events(self, chunks: AsyncIterator[Chunk]) -> AsyncIterator[bytes]:
        """The answer as a stream of `chat.completion.chunk`."""
        with_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        opened: set[int] = set()
        async for chunk in chunks:
            self.take(chunk)
            if not isinstance(chunk, Text | ToolCallDelta | Finished):
                continue
            index = chunk.index
            delta: dict[str, Any] = {} if index in opened else {"role": "assistant", "content": ""}
            opened.add(index)
            finish = chunk.reason if isinstance(chunk, Finished) else None
            if finish and self._found:
                delta["annotations"] = self._found.annotations(self._choice(index)["text"])
            logprobs = None
            if isinstance(chunk, Text):
                delta["reasoning_content" if chunk.reasoning else "content"] = chunk.text
                if self._body.logprobs:
                    logprobs = {"content": [_logprob(entry) for entry in chunk.logprobs], "refusal": None}
            elif isinstance(chunk, ToolCallDelta):
                call: dict[str, Any] = {"index": chunk.position, "function": {"arguments": chunk.arguments}}
                if chunk.id:
                    call |= {"id": chunk.id, "type": "function"}
                    call["function"]["name"] = chunk.name
                delta = {**delta, "tool_calls": [call]}
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            yield event(self._chunk([choice]))
        if with_usage:
            yield event({**self._chunk([]), "usage": self._usage, "ninestory": self._extension | self._search()})
        yield DONE

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}

    def _choice(self, index: int) -> dict[str, Any]:
        empty: dict[str, Any] = {"text": "", "reasoning": "", "logprobs": [], "tool_calls": [], "finish_reason": None}
        return self._choices.setdefault(index, empty)


def usage_object(usage: Usage) -> dict[str, Any]:
    """An engine's usage as OpenAI writes it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    top = [{"token": t.token, "logprob": t.logprob, "bytes": t.bytes} for t in entry.top]
    return {"token": entry.token, "logprob": entry.logprob, "bytes": entry.bytes, "top_logprobs": top}
