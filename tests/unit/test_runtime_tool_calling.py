"""Tool calling over an engine of the test's own, which writes what it is told and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ninestory.core.errors import InvalidRequest, NinestoryError, Unsupported
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    Constraint,
    EngineInfo,
    Feed,
    Finished,
    Message,
    Request,
    Started,
    Text,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    Usage,
)
from ninestory.runtimes.tool_calling import plain_turns, run_with_tools

WEATHER = ToolSpec(
    name="get_weather",
    description="Weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TIME = ToolSpec(name="get_time", parameters={"type": "object", "properties": {}})


class Scripted:
    """An engine that gives the next of its texts to each request."""

    info = EngineInfo(model="scripted", runtime="torch", architecture="", tasks=["chat"], context=100, slots=1)

    def __init__(self, *texts: str, reason: Any = "stop") -> None:
        self.texts, self.reason = list(texts), reason
        self.asked: list[ChatRequest] = []

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        assert isinstance(request, ChatRequest)
        self.asked.append(request)
        yield Started(seed=1)
        for character in self.texts.pop(0):
            yield Text(text=character)
        yield Finished(reason=self.reason)
        yield Usage(prompt_tokens=10, completion_tokens=5)

    def close(self) -> None:
        pass


def request(*tools: ToolSpec, **fields: Any) -> ChatRequest:
    fields = {"messages": [Message(role="user", content="Weather in Paris?")], "tools": list(tools), **fields}
    return ChatRequest(**fields)


def run(engine: Scripted, asked: ChatRequest) -> list[Chunk]:
    return list(run_with_tools(engine, asked, threading.Event()))


def calls_of(chunks: list[Chunk]) -> list[tuple[str, Any]]:
    found: dict[int, tuple[str, str]] = {}
    for c in chunks:
        if isinstance(c, ToolCallDelta):
            name, arguments = found.get(c.position, (c.name or "", ""))
            found[c.position] = (name, arguments + c.arguments)
    return [(name, json.loads(arguments)) for name, arguments in found.values()]


def reason_of(chunks: list[Chunk]) -> str:
    return next(c.reason for c in chunks if isinstance(c, Finished))


def test_auto_chooses_first_among_the_tools_and_the_answer() -> None:
    engine = Scripted("answer", "It is sunny.")
    chunks = run(engine, request(WEATHER, TIME))
    assert engine.asked[0].constraint == Constraint(choices=["get_weather", "get_time", "answer"])
    assert engine.asked[0].sampling.temperature == 0.0
    assert engine.asked[1].constraint is None
    assert "".join(c.text for c in chunks if isinstance(c, Text)) == "It is sunny."
    assert calls_of(chunks) == []
    assert reason_of(chunks) == "stop"


def test_a_chosen_tool_gets_arguments_of_its_schema_and_no_others() -> None:
    engine = Scripted("get_weather", '{"city": "Paris"}')
    chunks = run(engine, request(WEATHER, TIME, stop=["}"], logprobs=2))
    assert calls_of(chunks) == [("get_weather", {"city": "Paris"})]
    assert reason_of(chunks) == "tool_calls"
    forced = engine.asked[1]
    assert forced.constraint is not None and forced.constraint.json_schema is not None
    assert forced.constraint.json_schema["additionalProperties"] is False
    assert forced.stop == []  # a stop string would cut the arguments
    deltas = [c for c in chunks if isinstance(c, ToolCallDelta)]
    assert deltas[0].id and deltas[0].id.startswith("call_")
    assert all(d.id is None for d in deltas[1:])


def test_the_usage_holds_both_passes() -> None:
    chunks = run(Scripted("get_weather", "{}"), request(WEATHER, TIME))
    assert [c.completion_tokens for c in chunks if isinstance(c, Usage)] == [10]


@pytest.mark.parametrize("choice", ["get_weather", "required"])
def test_where_one_tool_remains_nothing_is_chosen(choice: str) -> None:
    engine = Scripted('{"city": "Paris"}')
    tools = (WEATHER, TIME) if choice == "get_weather" else (WEATHER,)
    assert calls_of(run(engine, request(*tools, tool_choice=choice))) == [("get_weather", {"city": "Paris"})]
    assert len(engine.asked) == 1


def test_required_never_answers() -> None:
    engine = Scripted("get_time", "{}")
    assert calls_of(run(engine, request(WEATHER, TIME, tool_choice="required"))) == [("get_time", {})]
    assert engine.asked[0].constraint == Constraint(choices=["get_weather", "get_time"])


def test_parallel_calls_come_as_one_array_when_asked_for() -> None:
    array = '[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "get_time", "arguments": {}}]'
    engine = Scripted("get_weather", array)
    chunks = run(engine, request(WEATHER, TIME, parallel_tool_calls=True))
    assert calls_of(chunks) == [("get_weather", {"city": "Paris"}), ("get_time", {})]
    assert reason_of(chunks) == "tool_calls"
    ids = [c.id for c in chunks if isinstance(c, ToolCallDelta)]
    assert len(set(ids)) == 2
    assert len(engine.asked) == 2


def test_arguments_cut_by_max_tokens_say_so() -> None:
    engine = Scripted('{"city": "Pa', reason="length")
    assert reason_of(run(engine, request(WEATHER, tool_choice="get_weather"))) == "length"
    engine = Scripted("get_weather", '[{"name"', reason="length")
    chunks = run(engine, request(WEATHER, parallel_tool_calls=True))
    assert reason_of(chunks) == "length"
    assert not any(isinstance(c, ToolCallDelta) for c in chunks)


def test_the_tools_are_described_in_the_system_message() -> None:
    engine = Scripted("answer", "x")
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    run(engine, request(WEATHER, messages=messages))
    system = engine.asked[1].messages[0]
    assert system.role == "system"
    assert system.text.startswith("Be brief.") and "Weather of a city" in system.text
    assert [m.role for m in engine.asked[1].messages] == ["system", "user"]


def test_calls_and_results_become_turns_in_order() -> None:
    call = ToolCall(id="c1", name="get_weather", arguments='{"city": "Paris"}')
    turns = plain_turns(
        [
            Message(role="user", content="Weather?"),
            Message(role="assistant", tool_calls=[call]),
            Message(role="tool", tool_call_id="c1", content="hail"),
            Message(role="user", content="And?"),
        ]
    )
    assert [(t.role, t.text) for t in turns] == [
        ("user", "Weather?"),
        ("assistant", 'Call get_weather: {"city": "Paris"}'),
        ("user", "Result of get_weather: hail\nAnd?"),
    ]


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"n": 2}, Unsupported, "n = 2"),
        ({"constraint": Constraint(choices=["a"])}, Unsupported, "response_format"),
        ({"continue_final_message": True}, Unsupported, "continue_final_message"),
        ({"tool_choice": "get_stock"}, InvalidRequest, "get_stock"),
        ({"tools": [WEATHER, WEATHER]}, InvalidRequest, "different"),
        ({"tools": [ToolSpec(name="answer")]}, InvalidRequest, "reserved"),
        ({"tools": [ToolSpec(name="t", parameters={"not": {}})]}, InvalidRequest, r"tools\[t\].*not"),
        ({"tools": [ToolSpec(name="t", parameters={"$ref": "http://x/y"})]}, InvalidRequest, "http://x/y"),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_anything_runs(
    fields: dict[str, Any], error: type[NinestoryError], named: str
) -> None:
    engine = Scripted()
    with pytest.raises(error, match=named):
        run(engine, request(**{"tools": [WEATHER], **fields}))
    assert engine.asked == []
