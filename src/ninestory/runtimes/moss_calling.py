"""MOSS's own way to call tools, behind the API's: its plugins are the caller's tools, its commands are tool calls.

MOSS was trained to think, to write commands, and to answer from their results. Where every tool of a request is one of
its four plugins by name (search, calculator, equation solver, text to image), the model chooses by itself in its own
words; the thoughts come out as reasoning, and whoever sends them back with the call gives the model its own words again.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ninestory.core.errors import InvalidRequest
from ninestory.models.moss_format import (
    COMMANDS,
    Command,
    Result,
    Round,
    Segment,
    meta_instruction,
    parse_commands,
    parse_thoughts,
    question_segments,
    round_segments,
    written_command,
)
from ninestory.runtimes.answer_edit import WithoutLead
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    Engine,
    Finished,
    Generation,
    Message,
    Started,
    Text,
    ToolCallDelta,
    ToolSpec,
    Usage,
)

if TYPE_CHECKING:
    from ninestory.runtimes.prompts import Prompts

_TEMPLATE = "moss"
_THOUGHT_TOKENS = 512  # of the first pass at most: without commands an answer is still to come
# How people name these tools → the command. Compared in lower case without - and _.
_NAMES = {
    "search": "Search", "websearch": "Search", "calculate": "Calculate", "calculator": "Calculate", "solve": "Solve",
    "solver": "Solve", "equationsolver": "Solve", "text2image": "Text2Image", "texttoimage": "Text2Image",
    "draw": "Text2Image",
}  # fmt: skip


def call_plugins(
    engine: Engine, prompts: Prompts, request: ChatRequest, cancel: threading.Event
) -> Iterator[Chunk] | None:
    """Answer a request with tools in MOSS's protocol; None where it is no request for that."""
    plugins = plugins_of(prompts, request)
    return None if plugins is None else run_with_plugins(engine, prompts, plugins, request, cancel)


def plugins_of(prompts: Prompts, request: ChatRequest) -> dict[str, ToolSpec] | None:
    """Command → the caller's tool, or None where the request is none for MOSS's own protocol.

    It is one if the model is asked in MOSS's format, may choose by itself, and each tool is a different plugin with
    one text as its only argument.
    """
    if prompts.format_of(request.template).id != _TEMPLATE or request.tool_choice != "auto":
        return None
    tools: dict[str, ToolSpec] = {}
    for tool in request.tools:
        command = _NAMES.get(tool.name.lower().replace("-", "").replace("_", ""))
        if command is None or command in tools or _argument(tool) is None:
            return None
        tools[command] = tool
    return tools


def run_with_plugins(
    engine: Engine, prompts: Prompts, tools: dict[str, ToolSpec], request: ChatRequest, cancel: threading.Event
) -> Iterator[Chunk]:
    """Think, then call or answer; after the results of a call, answer.

    Raises:
        InvalidRequest: a conversation whose turns are no rounds of MOSS. ContextOverflow: with both numbers.
    """
    system, rounds = _rounds(request.messages, tools)
    enabled = [COMMANDS[command] for command in tools]
    head = [(meta_instruction(enabled), True)] if not system else []
    head = head or [(system, False), (meta_instruction(enabled, system="\0").removeprefix("\0"), True)]
    *past, asked = rounds
    spent: Usage | None = None
    if not asked.results:
        prompt = _fitted(prompts, head, past, question_segments(asked.human), request)
        limit = min(request.max_tokens or _THOUGHT_TOKENS, _THOUGHT_TOKENS)
        written = ""
        for chunk in engine.run(_continued(prompt, "<eoc>", request, limit), cancel):
            if isinstance(chunk, Text):
                written += chunk.text
            elif isinstance(chunk, Usage):
                spent = chunk
            elif isinstance(chunk, Started):
                request = dataclasses.replace(
                    request, sampling=dataclasses.replace(request.sampling, seed=chunk.seed)
                )  # one seed for both passes, so that the one reported gives the same again
                yield dataclasses.replace(chunk, template=_TEMPLATE)
        thoughts, commands = parse_thoughts(written)
        if thoughts != "None":
            yield Text(text=thoughts, reasoning=True)
        if called := [command for command in parse_commands(commands) if command.name in tools]:
            yield from _calls(called, tools, request)
            if spent is not None:
                yield spent
            return
        asked = dataclasses.replace(asked, thoughts=thoughts)
    prompt = _fitted(prompts, head, past, round_segments(asked, answered=False), request)
    yield from _answer(engine.run(_continued(prompt, "<eom>", request, request.max_tokens), cancel), spent)


def _calls(commands: Sequence[Command], tools: dict[str, ToolSpec], request: ChatRequest) -> Iterator[Chunk]:
    shown = commands[:1] if request.parallel_tool_calls is False else commands
    for position, command in enumerate(shown):
        tool = tools[command.name]
        arguments = json.dumps({_argument(tool): command.argument}, ensure_ascii=False)
        yield ToolCallDelta(position=position, id=f"call_{secrets.token_hex(12)}", name=tool.name, arguments=arguments)
    yield Finished(reason="tool_calls")


def _answer(chunks: Iterator[Chunk], spent: Usage | None) -> Iterator[Chunk]:
    """The answer without the blank before it; a first pass's start stands for both, its cost is added."""
    lead, logprobs = WithoutLead(" "), []
    for chunk in chunks:
        if isinstance(chunk, Text):
            logprobs += chunk.logprobs
            if text := lead.push(chunk.text):
                yield dataclasses.replace(chunk, text=text, logprobs=logprobs)
                logprobs = []
        elif isinstance(chunk, Finished):
            if rest := lead.finish():
                yield Text(text=rest, logprobs=logprobs)
            yield dataclasses.replace(chunk, stop=None if chunk.stop == "<eom>" else chunk.stop)
        elif isinstance(chunk, Started):
            if spent is None:
                yield dataclasses.replace(chunk, template=_TEMPLATE)
        elif isinstance(chunk, Usage) and spent is not None:
            yield chunk.after(spent)
        else:
            yield chunk


def _fitted(
    prompts: Prompts, head: list[Segment], past: list[Round], last: list[Segment], request: ChatRequest
) -> list[int]:
    """Ids of the prompt; with truncation "auto" the oldest rounds are left out until the rest fits."""
    left = list(past)
    while True:
        segments = [*head, *(segment for made in left for segment in round_segments(made)), *last]
        ids = [*prompts.bos_ids, *prompts.encode_segments(segments)]
        if request.truncation == "disabled" or not left or prompts.fits(len(ids), request):
            prompts.check_fits(len(ids), request)
            return ids
        left.pop(0)


def _continued(prompt: list[int], mark: str, request: ChatRequest, limit: int | None) -> CompletionRequest:
    given = {f.name: getattr(request, f.name) for f in dataclasses.fields(Generation)}
    given |= {"stop": [mark, *request.stop], "max_tokens": limit, "truncation": "disabled"}
    return CompletionRequest(prompt=prompt, **given)


def _rounds(messages: Sequence[Message], tools: dict[str, ToolSpec]) -> tuple[str, list[Round]]:
    """(system text, rounds) of a conversation; the last round is the one to answer."""
    system = ""
    rounds: list[Round] = []
    commands = {tool.name: command for command, tool in tools.items()}
    for index, message in enumerate(messages):
        if message.role in ("system", "developer") and not rounds:
            system = message.text
        elif message.role == "user":
            rounds.append(Round(message.text))
        elif message.role == "assistant" and rounds and not rounds[-1].text:
            rounds[-1] = _spoken(rounds[-1], message, commands, index)
        elif message.role == "tool" and rounds and not rounds[-1].text:
            rounds[-1] = _resulted(rounds[-1], message, index)
        else:
            raise _no_round(index, f"a turn of the role {message.role} in this place")
    if not rounds or rounds[-1].text or any(result.error for result in rounds[-1].results):
        raise _no_round(len(messages) - 1, "no question and no results at the end")
    return system, rounds


def _spoken(made: Round, message: Message, commands: dict[str, str], index: int) -> Round:
    thoughts = message.reasoning or made.thoughts
    if not message.tool_calls:
        return dataclasses.replace(made, thoughts=thoughts, text=message.text)
    results = []
    for call in message.tool_calls:
        argument = _only_text(call.arguments)
        if call.name not in commands or argument is None:
            raise _no_round(index, f"the call {call.name}({call.arguments[:80]}), which is no command of MOSS's")
        results.append(Result(written_command(commands[call.name], argument), [], call.id))
    written = ", ".join(result.command.written for result in results)
    return dataclasses.replace(made, thoughts=thoughts, commands=written, results=results)


def _resulted(made: Round, message: Message, index: int) -> Round:
    """A tool's result in its place; `error` holds the id of the call until then."""
    lines = [line for line in message.text.splitlines() if line.strip()]
    places = [i for i, result in enumerate(made.results) if result.error == message.tool_call_id]
    if not places:
        raise _no_round(index, f"a result of {message.tool_call_id!r}, which was not called")
    results = list(made.results)
    results[places[0]] = Result(results[places[0]].command, lines)
    return dataclasses.replace(made, results=results)


def _argument(tool: ToolSpec) -> str | None:
    """The name of a tool's only argument, if that is a text."""
    properties: Any = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or list(properties)
    texts = [name for name in required if (properties.get(name) or {}).get("type") == "string"]
    return texts[0] if len(required) == len(texts) == 1 else None


def _only_text(arguments: str) -> str | None:
    try:
        (value,) = json.loads(arguments).values()
    except (ValueError, AttributeError):
        return None
    return value if isinstance(value, str) else None


def _no_round(index: int, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"messages[{index}]: {why}.",
        hint="A round of MOSS is a question, its tool calls, a result for each of them, and the answer.",
        hint_zh="MOSS 的一轮依次为：提问、工具调用、每个调用的结果、回答。",
        param=f"messages[{index}]",
    )
