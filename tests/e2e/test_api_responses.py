"""/v1/responses with the official openai client against a real server and a real model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Beijing"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api_server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_answer_with_usage_and_what_the_request_set(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=MODEL,
        input="Say hello.",
        instructions="Be brief.",
        max_output_tokens=6,
        temperature=0,
        metadata={"a": "b"},
    )
    assert answer.output_text and answer.status == "incomplete"
    assert answer.incomplete_details is not None and answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None and answer.usage.output_tokens == 6
    assert answer.usage.total_tokens == answer.usage.input_tokens + 6
    assert (answer.instructions, answer.temperature, answer.metadata) == ("Be brief.", 0, {"a": "b"})


def test_stream_tells_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "input": "Count to three.", "max_output_tokens": 8, "temperature": 0, "store": False}
    whole = client.responses.create(**request)
    events = list(client.responses.create(**request, stream=True))
    assert [event.type for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    assert [event.type for event in events[-4:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert events[-1].response.usage == whole.usage or events[-1].response.usage.output_tokens == 8


def test_the_client_assembles_a_finished_stream(client: openai.OpenAI) -> None:
    yes_or_no = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}
    text = {"format": {"type": "json_schema", "name": "verdict", "schema": yes_or_no, "strict": True}}
    with client.responses.stream(
        model=MODEL, input="Is water wet?", text=text, temperature=0, max_output_tokens=40
    ) as stream:
        final = stream.until_done().get_final_response()
    assert final.status == "completed" and json.loads(final.output_text)["answer"] in ("yes", "no")


def test_function_call_and_its_result(client: openai.OpenAI) -> None:
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = client.responses.create(
        model=MODEL, input=question, tools=[WEATHER], tool_choice={"type": "function", "name": "get_weather"}
    )
    call = next(item for item in asked.output if item.type == "function_call")
    assert call.name == "get_weather" and json.loads(call.arguments)["city"] in ("Paris", "Beijing")
    answered = client.responses.create(
        model=MODEL,
        previous_response_id=asked.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 20 degrees."}],
        max_output_tokens=8,
    )
    assert answered.output_text
    stateless = client.responses.create(
        model=MODEL,
        input=[
            *question,
            *[item.model_dump(exclude_none=True) for item in asked.output],
            {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."},
        ],
        max_output_tokens=4,
        store=False,
    )
    assert stateless.output_text


def test_streamed_call_arguments_come_in_pieces(client: openai.OpenAI) -> None:
    events = list(
        client.responses.create(
            model=MODEL, input="Weather in Paris?", tools=[WEATHER], tool_choice="required", stream=True
        )
    )
    pieces = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    assert pieces == done.arguments and json.loads(pieces)["city"] in ("Paris", "Beijing")
    assert events[-1].type == "response.completed"


def test_conversation_goes_on_from_a_stored_response(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="My name is Ada.", max_output_tokens=4)
    second = client.responses.create(
        model=MODEL, input="And yours?", previous_response_id=first.id, max_output_tokens=4
    )
    assert second.previous_response_id == first.id
    assert first.usage is not None and second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + 4
    again = client.responses.retrieve(second.id)
    assert again.output_text == second.output_text
    items = list(client.responses.input_items.list(second.id))
    assert [item.content[0].text for item in items] == ["And yours?"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model=MODEL, input="Go on.", previous_response_id=second.id)
    assert caught.value.param == "previous_response_id"


def test_store_false_keeps_nothing(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="Hi", max_output_tokens=2, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_logprobs_when_included(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=MODEL,
        input="Hi",
        max_output_tokens=2,
        temperature=0,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    logprobs = answer.output[0].content[0].logprobs
    assert len(logprobs) == 2 and all(len(entry.top_logprobs) == 2 for entry in logprobs)


def test_tokens_are_counted_without_answering(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model=MODEL, input="Say hello.")
    answered = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=1, store=False)
    assert answered.usage is not None and counted.input_tokens == answered.usage.input_tokens


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tool_calls", 3),
        ("background", True),
        ("conversation", "conv_1"),
        ("prompt", {"id": "p"}),
        ("include", ["reasoning.encrypted_content"]),
        ("tools", [{"type": "web_search"}]),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}]),
        ("surprise", 1),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client: openai.OpenAI, field: str, value: object) -> None:
    body = {"model": MODEL, "input": "Hi", field: value}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/responses", body=body, cast_to=httpx.Response)
    assert field in str(caught.value.param)


def test_early_error_of_a_stream_keeps_its_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="word " * 3000, stream=True)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="hf:nobody/nothing", input="Hi", stream=True)


def test_stored_responses_survive_a_killed_server(tmp_path: Path) -> None:
    server = ApiServer(tmp_path / "home").start()
    body = {"model": MODEL, "input": "My name is Ada.", "max_output_tokens": 4}
    first = server.http.post("/v1/responses", json=body).json()
    server.kill()
    with server:
        assert server.http.get(f"/v1/responses/{first['id']}").json() == first
        second = server.http.post("/v1/responses", json={**body, "previous_response_id": first["id"]})
        assert second.json()["usage"]["input_tokens"] > first["usage"]["input_tokens"]


def test_a_worker_killed_in_mid_answer_ends_the_stream_with_a_failed_response(api_server: ApiServer) -> None:
    client = openai.OpenAI(base_url=f"{api_server.url}/v1", api_key="none", max_retries=0)
    stream = client.responses.create(model=MODEL, input="Tell a long story.", max_output_tokens=800, stream=True)
    for event in stream:
        if event.type == "response.output_text.delta":
            break
    workers = api_server.http.get("/ninestory/v1/ps").json()["data"]
    os.kill(next(row["pid"] for row in workers if row["model"] == MODEL), signal.SIGKILL)
    last = list(stream)[-1]
    assert last.type == "response.failed" and last.response.output_text and last.response.error is not None
    assert client.responses.retrieve(last.response.id).status == "failed"
    again = client.responses.create(model=MODEL, input="Hi", max_output_tokens=2)
    assert again.output_text
