"""MOSS's plugins as the API's tools, on a real engine: a MOSS of two links, which writes what it was built to write.

Its attention and its feed-forward layers are silent, so the next token follows from the last one alone: behind a
question (a line break) it writes one command and <eoc>, behind "<|MOSS|>:" one word and <eom>.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from ninestory.core.errors import ContextOverflow, InvalidRequest, Unsupported
from ninestory.floors.chat import ChatModel
from ninestory.library import load
from ninestory.models.convert.to_gguf import convert_to_gguf
from ninestory.runtimes.moss_calling import plugins_of
from ninestory.runtimes.protocol import (
    ChatRequest,
    Finished,
    Message,
    Sampling,
    Started,
    Text,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    Usage,
)
from tests.tiny_checkpoints import linked_moss

pytestmark = pytest.mark.torch
THOUGHTS = "<|Inner Thoughts|>: Work it out.<eot>\n<|Commands|>: "
COMMANDS = THOUGHTS + 'Calculate("6*7"), Solve("x=1")'


def tool(name: str, argument: str = "expression", **schema: Any) -> ToolSpec:
    properties = {argument: {"type": "string"}}
    return ToolSpec(
        name=name, parameters={"type": "object", "properties": properties, "required": [argument], **schema}
    )


CALCULATOR, SOLVER = tool("calculator"), tool("equation_solver", "equation")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    path = linked_moss(tmp_path_factory.mktemp("moss") / "model", COMMANDS, " It is 42.")
    with load(str(path), context=1024, slots=1, threads=1) as loaded:
        yield loaded


def asked(*messages: Message, tools: tuple[ToolSpec, ...] = (CALCULATOR, SOLVER), **fields: Any) -> ChatRequest:
    question = Message(role="user", content="What is 6*7?")
    settings: dict[str, Any] = {"sampling": Sampling(temperature=0.0), "max_tokens": 20, **fields}
    return ChatRequest(messages=[question, *messages], tools=list(tools), **settings)


def called(model: ChatModel, request: ChatRequest) -> tuple[list[ToolCall], list[Any]]:
    chunks = list(model.run(request, threading.Event()))
    made = [
        ToolCall(id=c.id or "", name=c.name or "", arguments=c.arguments)
        for c in chunks
        if isinstance(c, ToolCallDelta)
    ]
    return made, chunks


def test_commands_become_calls_and_results_become_an_answer(model: ChatModel) -> None:
    calls, chunks = called(model, asked())
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [
        ("calculator", {"expression": "6*7"}),
        ("equation_solver", {"equation": "x=1"}),
    ]
    assert [c.reason for c in chunks if isinstance(c, Finished)] == ["tool_calls"]
    thoughts = "".join(c.text for c in chunks if isinstance(c, Text) and c.reasoning)
    assert thoughts == "Work it out."
    turn = Message(role="assistant", tool_calls=calls, reasoning=thoughts)
    results = [Message(role="tool", content=text, tool_call_id=c.id) for c, text in zip(calls, "4x", strict=True)]
    _, chunks = called(model, asked(turn, *results))
    assert "".join(c.text for c in chunks if isinstance(c, Text)) == "It is 42."
    assert [(c.reason, c.stop) for c in chunks if isinstance(c, Finished)] == [("stop", None)]
    assert [c.template for c in chunks if isinstance(c, Started)] == ["moss"]
    usage = [c for c in chunks if isinstance(c, Usage)]
    assert len(usage) == 1 and usage[0].completion_tokens >= 1


def test_a_model_that_calls_nothing_answers_in_the_same_reply(tmp_path: Path) -> None:
    path = linked_moss(tmp_path / "model", THOUGHTS + "None", " Hello.")
    with load(str(path), context=1024, slots=1, threads=1) as model:
        calls, chunks = called(model, asked())
    assert calls == []
    assert "".join(c.text for c in chunks if isinstance(c, Text) and not c.reasoning) == "Hello."
    assert len([c for c in chunks if isinstance(c, Started)]) == 1
    (usage,) = [c for c in chunks if isinstance(c, Usage)]
    assert usage.completion_tokens >= 3, "both passes are counted"


def test_only_the_first_call_where_one_at_a_time_was_asked_for(model: ChatModel) -> None:
    calls, _ = called(model, asked(parallel_tool_calls=False))
    assert [c.name for c in calls] == ["calculator"]


def test_a_command_of_a_plugin_that_is_not_there_is_no_call(model: ChatModel) -> None:
    calls, chunks = called(model, asked(tools=(CALCULATOR,)))
    assert [c.name for c in calls] == ["calculator"]
    calls, chunks = called(model, asked(tools=(tool("web_search", "query"),)))
    assert calls == []
    assert "".join(c.text for c in chunks if isinstance(c, Text) and not c.reasoning) == "It is 42."


@pytest.mark.parametrize(
    ("tools", "fields"),
    [
        ((tool("get_weather"),), {}),
        ((CALCULATOR, tool("calculate")), {}),
        ((tool("search", "query", required=["query", "language"]),), {}),
        ((CALCULATOR,), {"tool_choice": "required"}),
        ((CALCULATOR,), {"template": "vicuna-v1.1"}),
    ],
)
def test_what_moss_was_not_taught_takes_the_way_of_every_model(
    model: ChatModel, tools: tuple[ToolSpec, ...], fields: dict[str, Any]
) -> None:
    prompts: Any = model._engine._prompts  # type: ignore[attr-defined]
    assert plugins_of(prompts, asked(tools=tools, **fields)) is None
    assert set(plugins_of(prompts, asked()) or {}) == {"Calculate", "Solve"}


@pytest.mark.parametrize(
    "messages",
    [
        [Message(role="assistant", content="An answer.")],
        [Message(role="tool", content="42", tool_call_id="call_x")],
        [Message(role="assistant", tool_calls=[ToolCall(id="a", name="calculator", arguments='{"expression": "1"}')])],
        [Message(role="assistant", tool_calls=[ToolCall(id="a", name="rocket", arguments='{"expression": "1"}')])],
        [Message(role="assistant", tool_calls=[ToolCall(id="a", name="calculator", arguments="{}")])],
    ],
)
def test_a_conversation_that_is_no_round_is_refused_by_its_place(model: ChatModel, messages: list[Message]) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[\d\]"):
        called(model, asked(*messages))


def test_what_does_not_go_together_with_tools_and_what_does_not_fit(model: ChatModel) -> None:
    with pytest.raises(Unsupported, match="n = 2"):
        called(model, asked(n=2))
    long = [Message(role="assistant", content="tea " * 500), Message(role="user", content="And now?")]
    with pytest.raises(ContextOverflow):
        called(model, asked(*long))
    calls, _ = called(model, dataclasses.replace(asked(*long), truncation="auto"))
    assert [c.name for c in calls] == ["calculator", "equation_solver"]


def test_the_same_on_llama_cpp_where_a_mark_has_no_text(tmp_path: Path) -> None:
    """<eoc> is no end mark of the file's own: it ends a pass because the format says so."""
    path = linked_moss(tmp_path / "model", COMMANDS, " It is 42.")
    made = convert_to_gguf(path, tmp_path / "model.gguf", "F32").path
    with load(str(made), template="moss", context=1024, slots=1, threads=1) as model:
        assert model.info.runtime == "llamacpp"
        calls, _ = called(model, asked(max_tokens=5))
        assert [(c.name, json.loads(c.arguments)) for c in calls][1:] == [("equation_solver", {"equation": "x=1"})]
        plain = model.chat("What is 6*7?", max_tokens=5, temperature=0)
    assert (plain.text.strip(), plain.finish_reason) == ("It is 42.", "stop")
