"""Builds one Responses object out of an engine's chunks, and the events that tell a stream's reader of it.

An item is open at a time: thinking, then the text, then each call. Knows nothing of HTTP; `responses.py` sends what
`start`, `add` and `finish` give. Event names and fields are those the official client parses.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from ninestory.core.errors import NinestoryError
from ninestory.runtimes.protocol import Chunk, Finished, Text, TokenLogprob, ToolCallDelta, Usage
from ninestory.serving.floors.chat.responses_schemas import ResponseRequest

Event = dict[str, Any]


class ResponseBuilder:
    """The response to one request, filled chunk by chunk."""

    def __init__(self, body: ResponseRequest, annotate: Callable[[str], list[dict[str, Any]]] | None = None) -> None:
        """`annotate` gives the annotations of a finished text."""
        self._annotate = annotate or (lambda text: [])
        self.response = _empty_response(body)
        self._sequence = 0
        self._open: dict[str, Any] | None = None
        self._open_position = -1  # of the tool call being written

    def start(self) -> Iterator[Event]:
        yield self._event("response.created", response=self._snapshot())
        yield self._event("response.in_progress", response=self._snapshot())

    def add(self, chunk: Chunk) -> Iterator[Event]:
        """The events of one chunk of the engine."""
        if isinstance(chunk, Text) and chunk.reasoning:
            yield from self._add_reasoning(chunk.text)
        elif isinstance(chunk, Text):
            yield from self._add_text(chunk.text, chunk.logprobs)
        elif isinstance(chunk, ToolCallDelta):
            yield from self._add_call(chunk)
        elif isinstance(chunk, Finished):
            if chunk.reason in ("length", "content_filter"):
                reason = "max_output_tokens" if chunk.reason == "length" else "content_filter"
                self.response["incomplete_details"] = {"reason": reason}
        elif isinstance(chunk, Usage):
            self.response["usage"] = _usage(chunk)

    def add_search(self, item: dict[str, Any]) -> Iterator[Event]:
        """The events of a finished `file_search_call`."""
        yield from self._begin(item)
        for stage in ("in_progress", "searching", "completed"):
            yield self._event(f"response.file_search_call.{stage}", item_id=item["id"], output_index=self._index)
        self._open = None
        yield self._event("response.output_item.done", output_index=self._index, item=item)

    def finish(self) -> Iterator[Event]:
        """Close what is open and end the response."""
        yield from self._close("incomplete" if self.response["incomplete_details"] else "completed")
        status = "incomplete" if self.response["incomplete_details"] else "completed"
        self.response["status"] = status
        self.response["completed_at"] = time.time() if status == "completed" else None
        yield self._event(f"response.{status}", response=self._snapshot())

    def fail(self, error: NinestoryError) -> Iterator[Event]:
        """End the response with an error; what was written so far stays in it."""
        yield from self._close("incomplete")
        hint = f" {error.hint}" if error.hint else ""
        self.response["error"] = {"code": "server_error", "message": f"{error.message}{hint}"}
        self.response["status"] = "failed"
        yield self._event("response.failed", response=self._snapshot())

    @staticmethod
    def with_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Input items as they are stored: each with an id."""
        prefixes = {
            "message": "msg",
            "function_call": "fc",
            "function_call_output": "fco",
            "reasoning": "rs",
            "file_search_call": "fs",
        }
        return [{**item, "id": item.get("id") or _new_id(prefixes[item["type"]])} for item in items]

    # --- items -------------------------------------------------------------------------------------------------

    def _add_reasoning(self, text: str) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "reasoning":
            item: Event = {
                "id": _new_id("rs"),
                "type": "reasoning",
                "summary": [],
                "content": [],
                "status": "in_progress",
            }
            yield from self._begin(item)
            item["content"] = [{"type": "reasoning_text", "text": ""}]
        assert self._open is not None
        self._open["content"][0]["text"] += text
        yield self._delta("response.reasoning_text.delta", text)

    def _add_text(self, text: str, logprobs: list[TokenLogprob]) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "message":
            item: Event = {
                "id": _new_id("msg"),
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
            yield from self._begin(item)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield self._event(
                "response.content_part.added", item_id=item["id"], output_index=self._index, content_index=0, part=part
            )
            item["content"] = [{**part, "annotations": [], "logprobs": []}]
        assert self._open is not None
        shown = [_logprob(entry) for entry in logprobs]
        self._open["content"][0]["text"] += text
        self._open["content"][0]["logprobs"] += shown
        yield {**self._delta("response.output_text.delta", text), "logprobs": shown}

    def _add_call(self, chunk: ToolCallDelta) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "function_call" or chunk.position != self._open_position:
            self._open_position = chunk.position
            yield from self._begin(
                {
                    "id": _new_id("fc"),
                    "type": "function_call",
                    "call_id": chunk.id,
                    "name": chunk.name,
                    "arguments": "",
                    "status": "in_progress",
                }
            )
        assert self._open is not None
        self._open["arguments"] += chunk.arguments
        if chunk.arguments:
            event = self._delta("response.function_call_arguments.delta", chunk.arguments)
            event.pop("content_index")
            yield event

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        yield from self._close("completed")
        self._open = item
        self.response["output"].append(item)
        yield self._event("response.output_item.added", output_index=self._index, item=dict(item))

    def _close(self, status: str) -> Iterator[Event]:
        item, self._open = self._open, None
        if item is None:
            return
        item["status"] = status
        where = {"item_id": item["id"], "output_index": self._index}
        if item["type"] == "message":
            part = item["content"][0]
            for number, annotation in enumerate(self._annotate(part["text"])):
                part["annotations"].append(annotation)
                yield self._event(
                    "response.output_text.annotation.added",
                    **where,
                    content_index=0,
                    annotation_index=number,
                    annotation=annotation,
                )
            yield self._event(
                "response.output_text.done", **where, content_index=0, text=part["text"], logprobs=part["logprobs"]
            )
            yield self._event("response.content_part.done", **where, content_index=0, part=part)
        elif item["type"] == "reasoning":
            text = item["content"][0]["text"]
            yield self._event("response.reasoning_text.done", **where, content_index=0, text=text)
        else:
            yield self._event(
                "response.function_call_arguments.done", **where, name=item["name"], arguments=item["arguments"]
            )
        yield self._event("response.output_item.done", output_index=self._index, item=item)

    @property
    def _index(self) -> int:
        return len(self.response["output"]) - 1

    def _delta(self, name: str, text: str) -> Event:
        assert self._open is not None
        return self._event(name, item_id=self._open["id"], output_index=self._index, content_index=0, delta=text)

    def _event(self, event_type: str, /, **fields: Any) -> Event:
        event = {"type": event_type, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _snapshot(self) -> dict[str, Any]:
        return {**self.response, "output": list(self.response["output"])}


def _empty_response(body: ResponseRequest) -> dict[str, Any]:
    """What the request set, as the response repeats it."""
    given = body.model_dump(by_alias=True)
    text_format = (given["text"] or {}).get("format") or {"type": "text"}
    return {
        "id": _new_id("resp"),
        "object": "response",
        "created_at": time.time(),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": body.store is not False,
        "temperature": body.temperature,
        "text": {"format": {key: value for key, value in text_format.items() if value is not None}},
        "tool_choice": given["tool_choice"],
        "tools": given["tools"],
        "top_logprobs": body.top_logprobs,
        "top_p": body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }


def _usage(chunk: Usage) -> dict[str, Any]:
    return {
        "input_tokens": chunk.prompt_tokens,
        "input_tokens_details": {"cached_tokens": chunk.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": chunk.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": chunk.reasoning_tokens},
        "total_tokens": chunk.prompt_tokens + chunk.completion_tokens,
    }


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    top = [{"token": other.token, "logprob": other.logprob, "bytes": other.bytes} for other in entry.top]
    return {"token": entry.token, "logprob": entry.logprob, "bytes": entry.bytes, "top_logprobs": top}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
