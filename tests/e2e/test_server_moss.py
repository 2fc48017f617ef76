"""MOSS's plugins through the API, by the official client: the caller's tools are called, and answered from."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch")
import openai

from ninestory.core.paths import Home
from ninestory.floors.chat.moss import calculator
from ninestory.models import store
from tests.e2e.api_server import ApiServer
from tests.tiny_checkpoints import linked_moss

pytestmark = [pytest.mark.slow, pytest.mark.torch]
MODEL = "moss:sft-plugin"
THOUGHTS = "<|Inner Thoughts|>: Work it out.<eot>\n<|Commands|>: "


@pytest.fixture(scope="module")
def client(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> openai.OpenAI:
    made = linked_moss(tmp_path_factory.mktemp("moss") / "model", THOUGHTS + 'Calculate("6*7")', " It is 42.")
    store.import_path(Home(api_server.home), made, MODEL)
    return openai.OpenAI(base_url=f"{api_server.url}/v1", api_key="none", max_retries=0)


def test_a_question_goes_through_command_result_and_answer(client: openai.OpenAI, api_server: ApiServer) -> None:
    plugin = calculator()
    function = {"name": "calculator", "description": plugin.description, "parameters": plugin.parameters}
    settings: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 16}
    settings["tools"] = [{"type": "function", "function": function}]
    messages: list[Any] = [{"role": "user", "content": "What is 6*7?"}]
    asked = client.chat.completions.create(messages=messages, **settings).choices[0]
    assert asked.finish_reason == "tool_calls" and asked.message.tool_calls
    (call,) = asked.message.tool_calls
    assert call.type == "function" and call.function.name == "calculator"
    thoughts = asked.message.model_dump().get("reasoning_content")
    assert thoughts == "Work it out."

    found = plugin.run(json.loads(call.function.arguments))
    assert found == "42"
    messages.append({**asked.message.model_dump(exclude_none=True), "reasoning_content": thoughts})
    messages.append({"role": "tool", "tool_call_id": call.id, "content": found})
    stream = list(client.chat.completions.create(messages=messages, stream=True, **settings))
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "It is 42."
    assert [c.choices[0].finish_reason for c in stream if c.choices][-1] == "stop"

    messages[-1]["tool_call_id"] = "call_of_nobody"
    with pytest.raises(openai.BadRequestError, match=r"messages\[2\]"):
        client.chat.completions.create(messages=messages, **settings)
    api_server.http.post("/ninestory/v1/unload", json={"model": MODEL})
