"""Tool calling on any engine: a constrained choice between answering and calling, then text or forced arguments.

Small open models rarely write a well-formed call by themselves. Here the choice is one of a closed list (the answer,
or a tool's name) and the arguments must match the tool's schema, so a call is always well-formed; whether it was the
right one depends on the model. One call an answer, or, where the request asks for parallel calls, one array of calls.
The prompt up to the choice is shared with what follows it, so the second pass is mostly read from the prompt cache.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import secrets
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.runtimes.json_schema import schema_grammar
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    Constraint,
    Engine,
    Finished,
    Message,
    Sampling,
    Text,
    ToolCallDelta,
    ToolSpec,
    Usage,
)

if TYPE_CHECKING:
    from ninestory.runtimes.prompts import Prompts

ANSWER = "answer"
_CHOICE_TOKENS = 256  # the longest name has 64 characters
_MAX_PARALLEL_CALLS = 8


# Prompt format → the function with which its model calls tools in its own words ("module:function"). It returns None
# for a request that the model's own way does not cover.
_NATIVE_CALLING = {"moss": "ninestory.runtimes.moss_calling:call_plugins"}


def answer_or_call(engine: Engine, prompts: Prompts, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
    """A request with tools: in the model's own way where it has one for that, else by the constrained choice.

    Raises:
        Unsupported, InvalidRequest: what cannot go together with tools, by name. ContextOverflow: with both numbers.
    """
    check_tools(request)
    if native := _NATIVE_CALLING.get(prompts.format_of(request.template).id):
        module, _, name = native.partition(":")
        calling = getattr(importlib.import_module(module), name)
        chunks: Iterator[Chunk] | None = calling(engine, prompts, request, cancel)
        if chunks is not None:
            return chunks
    return run_with_tools(engine, request, cancel)


def run_with_tools(engine: Engine, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
    """Answer or call. Yields the chunks of the final pass, with the usage of both.

    Raises:
        Unsupported, InvalidRequest: what cannot go together with tools, or a schema that cannot be enforced, by name.
    """
    check_tools(request)
    plain = dataclasses.replace(request, tools=[], messages=_describe(request.messages, request.tools))
    tool, spent = _choose(engine, request, plain, cancel)
    if tool is None:
        yield from _with_usage(engine.run(plain, cancel), spent)
    elif request.parallel_tool_calls and request.tool_choice in ("auto", "required"):
        yield from _with_usage(_call_several(engine, request, plain, cancel), spent)
    else:
        yield from _with_usage(_call_one(engine, tool, plain, cancel), spent)


def _call_one(engine: Engine, tool: ToolSpec, plain: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
    """The arguments stream as they are written."""
    question = f"Write the arguments of the tool {tool.name} for this as one JSON object."
    head: dict[str, Any] = {"id": _call_id(), "name": tool.name}
    for chunk in engine.run(_forced(plain, question, _closed(tool.parameters)), cancel):
        if isinstance(chunk, Text):
            yield ToolCallDelta(arguments=chunk.text, **head)
            head = {}
        elif isinstance(chunk, Finished):
            yield Finished(reason="tool_calls" if chunk.reason == "stop" else chunk.reason)
        else:
            yield chunk


def _call_several(engine: Engine, request: ChatRequest, plain: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
    """One array of calls, given out when it is complete."""
    calls = {"type": "array", "items": {"anyOf": [_call_schema(tool) for tool in request.tools]}}
    question = "Write the tool calls that this needs as one JSON array."
    written = ""
    for chunk in engine.run(_forced(plain, question, calls | {"minItems": 1, "maxItems": _MAX_PARALLEL_CALLS}), cancel):
        if isinstance(chunk, Text):
            written += chunk.text
        elif isinstance(chunk, Finished) and chunk.reason == "stop":
            for position, call in enumerate(json.loads(written)):
                arguments = json.dumps(call["arguments"], ensure_ascii=False)
                yield ToolCallDelta(position=position, id=_call_id(), name=call["name"], arguments=arguments)
            yield Finished(reason="tool_calls")
        else:
            yield chunk


def _forced(plain: ChatRequest, question: str, schema: dict[str, Any]) -> ChatRequest:
    return dataclasses.replace(_ask(plain, question), constraint=Constraint(json_schema=schema), logprobs=None, stop=[])


def _call_schema(tool: ToolSpec) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": _closed(tool.parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


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
        sampling=Sampling(temperature=0.0, seed=plain.sampling.seed),
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
            yield chunk.after(spent)
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


def check_tools(request: ChatRequest) -> None:
    """Refuse by name what cannot go together with tools.

    Raises:
        Unsupported, InvalidRequest: see there.
    """
    if request.n > 1:
        raise Unsupported(
            f"tools with n = {request.n}.", hint="Send n requests.", hint_zh="请分别发送 n 个请求。", param="n"
        )
    for field, given in (
        ("response_format", request.constraint),
        ("continue_final_message", request.continue_final_message),
    ):
        if given:
            raise Unsupported(
                f"tools together with {field}.", hint="Use one of them.", hint_zh="请只使用其中之一。", param=field
            )
    names = [tool.name for tool in request.tools]
    if len(set(names)) != len(names) or ANSWER in names:
        raise InvalidRequest(f"Tool names must be different, and {ANSWER!r} is reserved; got {names}.", param="tools")
    if request.tool_choice not in ("auto", "required", *names):
        raise InvalidRequest(f"tool_choice names {request.tool_choice!r}; the tools are {names}.", param="tool_choice")
    for tool in request.tools:
        schema_grammar(_closed(tool.parameters), f"tools[{tool.name}].parameters")
