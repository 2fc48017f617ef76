"""/v1/messages with the official anthropic client against a real server and a real model."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import anthropic
import pytest

from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]

HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Beijing"]}},
        "required": ["city"],
    },
}


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=api_server.url, api_key="none", max_retries=0) as made:
        yield made


def test_message_with_usage(client: anthropic.Anthropic) -> None:
    greedy = {"extra_body": {"temperature": 0}}
    message = client.messages.create(model=MODEL, max_tokens=5, system="Be brief.", messages=HELLO, **greedy)
    assert message.content[0].type == "text" and message.content[0].text
    assert message.stop_reason == "max_tokens" and message.usage.output_tokens == 5
    cached = message.usage.cache_read_input_tokens or 0
    counted = client.messages.count_tokens(model=MODEL, system="Be brief.", messages=HELLO)
    assert message.usage.input_tokens + cached == counted.input_tokens


def test_stream_is_the_message(client: anthropic.Anthropic) -> None:
    greedy = {"model": MODEL, "max_tokens": 8, "messages": HELLO, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**greedy)
    with client.messages.stream(**greedy) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 8
    kinds = [event.type for event in client.messages.create(**greedy, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    greedy = {"model": MODEL, "messages": HELLO, "extra_body": {"temperature": 0}}
    words = client.messages.create(**greedy, max_tokens=8).content[0].text.split()
    stopped = client.messages.create(**greedy, max_tokens=40, stop_sequences=[words[1]])
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == words[1]
    assert words[1] not in stopped.content[0].text


def test_tool_use_and_its_result(client: anthropic.Anthropic) -> None:
    question = {"role": "user", "content": "What is the weather in Paris?"}
    asked = client.messages.create(
        model=MODEL, max_tokens=64, messages=[question], tools=[WEATHER], tool_choice={"type": "any"}
    )
    assert asked.stop_reason == "tool_use"
    use = asked.content[-1]
    assert use.type == "tool_use" and use.name == "get_weather" and use.input["city"] in ("Paris", "Beijing")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny, 20 degrees."}
    answered = client.messages.create(
        model=MODEL,
        max_tokens=8,
        tools=[WEATHER],
        tool_choice={"type": "none"},
        messages=[question, {"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}],
    )
    assert answered.content[0].type == "text" and answered.content[0].text


def test_streamed_tool_use_is_assembled_by_the_client(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model=MODEL,
        max_tokens=64,
        messages=[{"role": "user", "content": "Weather in Paris?"}],
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather"},
    ) as stream:
        final = stream.get_final_message()
    assert final.content[0].type == "tool_use" and final.content[0].input["city"] in ("Paris", "Beijing")


def test_the_assistants_words_are_carried_on(client: anthropic.Anthropic) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Hello and"}]
    message = client.messages.create(model=MODEL, max_tokens=4, messages=begun, extra_body={"temperature": 0})
    assert message.content[0].text and not message.content[0].text.startswith("Hello and")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("thinking", {"type": "enabled", "budget_tokens": 1024}),
        ("container", "c1"),
        ("tools", [{"type": "web_search_20250305", "name": "web_search"}]),
        ("surprise", 1),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client: anthropic.Anthropic, field: str, value: object) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model=MODEL, max_tokens=4, messages=HELLO, extra_body={field: value})
    body = caught.value.body
    assert isinstance(body, dict) and body["type"] == "error" and body["request_id"].startswith("req_")
    assert body["error"]["type"] == "invalid_request_error" and field in body["error"]["message"]


def test_errors_have_anthropics_types(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="hf:nobody/nothing", max_tokens=4, messages=HELLO)
    misplaced = [{"role": "user", "content": [{"type": "thinking", "thinking": "x", "signature": ""}]}]
    with pytest.raises(anthropic.BadRequestError, match="belong to the assistant"):
        client.messages.create(model=MODEL, max_tokens=4, messages=misplaced)


def test_key_in_anthropics_header(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ApiServer(tmp_path_factory.mktemp("home"), serve_api_key="sesame") as server:
        wrong = anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0)
        with pytest.raises(anthropic.AuthenticationError):
            wrong.messages.create(model=MODEL, max_tokens=2, messages=HELLO)
        right = anthropic.Anthropic(base_url=server.url, api_key="sesame", max_retries=0)
        assert right.messages.create(model=MODEL, max_tokens=8, messages=HELLO, extra_body={"temperature": 0}).content


def test_a_worker_killed_in_mid_answer_is_an_error_event(api_server: ApiServer, client: anthropic.Anthropic) -> None:
    story = [{"role": "user", "content": "Tell a long story."}]
    stream = client.messages.create(model=MODEL, max_tokens=800, messages=story, stream=True)
    for event in stream:
        if event.type == "content_block_delta":
            break
    workers = api_server.http.get("/ninestory/v1/ps").json()["data"]
    os.kill(next(row["pid"] for row in workers if row["model"] == MODEL), signal.SIGKILL)
    with pytest.raises(anthropic.APIStatusError, match="api_error"):
        list(stream)
    assert client.messages.create(model=MODEL, max_tokens=8, messages=HELLO, extra_body={"temperature": 0}).content
