"""Tool calling on any engine: a constrained choice between answering and calling, then text or forced arguments.

Small open models rarely write a well-formed call by themselves. Here the choice is one of a closed list (the answer,
or a tool's name) and the arguments must match the tool's schema, so a call is always well-formed; whether it was the
right one depends on the model. One call an answer. The prompt up to the choice is shared with what follows it, so
the second pass is mostly read from the prompt cache.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
from collections.abc import Iterator
from typing import Any

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.runtimes.json_schema import check_schema
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    Constraint,
    Engine,
    Finished,
    Message,
    Text,
    ToolCallDelta,
    ToolSpec,
    Usage,
)

ANSWER = "answer"
_CHOICE_TOKENS = 64


def run_with_tools(engine: Engine, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
    """Answer or call. Yields the chunks of the final pass, with the usage of both."""
    _check(request)
    plain = dataclasses.replace(request, tools=[], messages=_describe(request.messages, request.tools))
    tool, spent = _choose(engine, request, plain, cancel)
    if tool is None:
        yield from _with_usage(engine.run(plain, cancel), spent)
        return
    asking = _ask(plain, f"Write the arguments of the tool {tool.name} for this as one JSON object.")
    forced = dataclasses.replace(asking, constraint=Constraint(json_schema=_closed(tool.parameters)), logprobs=None)
    call_id, first = f"call_{secrets.token_hex(12)}", True
    for chunk in _with_usage(engine.run(forced, cancel), spent):
        if isinstance(chunk, Text):
            head: dict[str, Any] = {"id": call_id, "name": tool.name} if first else {}
            yield ToolCallDelta(arguments=chunk.text, **head)
            first = False
        elif isinstance(chunk, Finished):
            yield Finished(reason="tool_calls" if chunk.reason == "stop" else chunk.reason)
        else:
            yield chunk


def _choose(
    engine: Engine, request: ChatRequest, plain: ChatRequest, cancel: threading.Event
) -> tuple[ToolSpec | None, Usage | None]:
    """The tool to call, or None for an answer, and what the decision cost."""
    by_name = {tool.name: tool for tool in request.tools}
    if request.tool_choice in by_name:
        return by_name[request.tool_choice], None
    if request.tool_choice == "required" and len(by_name) == 1:
        return request.tools[0], None
    choices = list(by_name) + ([ANSWER] if request.tool_choice == "auto" else [])
    question = f"Decide what to do next. Write one word of: {', '.join(choices)}."
    deciding = dataclasses.replace(
        _ask(plain, question),
        constraint=Constraint(choices=choices),
        sampling=dataclasses.replace(plain.sampling, temperature=0.0),
        max_tokens=_CHOICE_TOKENS,
        logprobs=None,
        stop=[],
    )
    chosen, spent = "", None
    for chunk in engine.run(deciding, cancel):
        if isinstance(chunk, Text) and not chunk.reasoning:
            chosen += chunk.text
        elif isinstance(chunk, Usage):
            spent = chunk
    return by_name.get(chosen), spent


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """No arguments beside those that the tool names, unless it says otherwise: small models add some without end."""
    return {"type": "object", "additionalProperties": False, **schema}


def _with_usage(chunks: Iterator[Chunk], spent: Usage | None) -> Iterator[Chunk]:
    """The same chunks, the usage raised by what was spent before."""
    for chunk in chunks:
        if isinstance(chunk, Usage) and spent is not None:
            yield dataclasses.replace(
                chunk,
                completion_tokens=chunk.completion_tokens + spent.completion_tokens,
                prefill_seconds=chunk.prefill_seconds + spent.prefill_seconds,
                decode_seconds=chunk.decode_seconds + spent.decode_seconds,
            )
        else:
            yield chunk


def _describe(messages: list[Message], tools: list[ToolSpec]) -> list[Message]:
    """Put the tools into the system message, and calls and results into words that every template can carry."""
    lines = [
        json.dumps({"name": t.name, "description": t.description, "parameters": t.parameters}, ensure_ascii=False)
        for t in tools
    ]
    text = "You can use these tools:\n" + "\n".join(lines)
    head, rest = ("", messages)
    if messages and messages[0].role in ("system", "developer"):
        head, rest = messages[0].text + "\n\n", messages[1:]
    return [Message(role="system", content=head + text), *plain_turns(rest)]


def plain_turns(messages: list[Message]) -> list[Message]:
    """Tool calls and tool results as ordinary turns; neighbours of one role are joined, as templates demand."""
    turns: list[Message] = []
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    for message in messages:
        if message.role == "tool":
            name = names.get(message.tool_call_id or "", message.name or "tool")
            message = Message(role="user", content=f"Result of {name}: {message.text}")
        elif message.tool_calls:
            calls = "\n".join(f"Call {call.name}: {call.arguments}" for call in message.tool_calls)
            message = Message(role="assistant", content=f"{message.text}\n{calls}".strip())
        if turns and turns[-1].role == message.role:
            message = dataclasses.replace(message, content=f"{turns.pop().text}\n{message.text}")
        turns.append(message)
    return turns


def _ask(request: ChatRequest, question: str) -> ChatRequest:
    """The same conversation with `question` at the end of the last turn, so that all before it is reused."""
    *before, last = request.messages
    if last.role == "user":
        return dataclasses.replace(
            request, messages=[*before, dataclasses.replace(last, content=f"{last.text}\n\n{question}")]
        )
    return dataclasses.replace(request, messages=[*request.messages, Message(role="user", content=question)])


def _check(request: ChatRequest) -> None:
    if request.n > 1:
        raise Unsupported(
            f"tools with n = {request.n}.", hint="Send n requests.", hint_zh="请分别发送 n 个请求。", param="n"
        )
    if request.constraint:
        raise Unsupported("tools together with response_format.", hint="Use one of them.", param="response_format")
    names = [tool.name for tool in request.tools]
    if len(set(names)) != len(names) or ANSWER in names:
        raise InvalidRequest(f"Tool names must be different, and {ANSWER!r} is reserved; got {names}.", param="tools")
    if request.tool_choice not in ("auto", "required", *names):
        raise InvalidRequest(f"tool_choice names {request.tool_choice!r}; the tools are {names}.", param="tool_choice")
    for tool in request.tools:
        check_schema(tool.parameters, f"tools[{tool.name}].parameters")
