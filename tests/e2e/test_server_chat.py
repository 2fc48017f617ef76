"""The server as the official openai client sees it, with the real starter model."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city now",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def client(api_server: ApiServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api_server.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, text: str = "What is the capital of France?", **options: Any) -> Any:
    options = {"max_tokens": 12, "temperature": 0, "seed": 1, **options}
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **options)


def test_streaming_gives_the_same_text_and_usage(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == "length"


def test_a_seed_reproduces_and_another_differs(client: openai.OpenAI) -> None:
    texts = [ask(client, "Tell a story.", temperature=1.5, seed=s).choices[0].message.content for s in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_stop_string_ends_the_answer_and_is_not_in_it(client: openai.OpenAI) -> None:
    whole = ask(client, max_tokens=20).choices[0].message.content
    stop = whole[6:9]
    reply = ask(client, max_tokens=20, stop=[stop]).choices[0]
    assert reply.finish_reason == "stop"
    assert reply.message.content == whole[: whole.index(stop)]


def test_n_choices_and_logprobs(client: openai.OpenAI) -> None:
    reply = ask(client, n=2, temperature=1, logprobs=True, top_logprobs=3)
    assert [c.index for c in reply.choices] == [0, 1]
    for choice in reply.choices:
        entries = choice.logprobs.content
        assert "".join(e.token for e in entries).strip() == choice.message.content.strip()
        assert all(e.logprob <= 0 and len(e.top_logprobs) == 3 for e in entries)


def test_json_schema_is_obeyed(client: openai.OpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    reply = ask(client, "Describe Paris.", response_format=wanted, max_tokens=60)
    jsonschema.validate(json.loads(reply.choices[0].message.content), SCHEMA)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_tool_call_matches_its_schema(client: openai.OpenAI, choice: Any) -> None:
    reply = ask(client, "What is the weather in Paris?", tools=[WEATHER], tool_choice=choice, max_tokens=40)
    call = reply.choices[0].message.tool_calls[0]
    assert reply.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_tool_auto_answers_or_calls_and_takes_the_result(client: openai.OpenAI) -> None:
    reply = ask(client, "What is the weather in Paris?", tools=[WEATHER], max_tokens=40).choices[0].message
    assert (reply.tool_calls is not None) != bool(reply.content)
    turns: list[Any] = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny, 21 degrees"},
    ]
    final = client.chat.completions.create(
        model=MODEL, messages=turns, tools=[WEATHER], tool_choice="none", max_tokens=20, temperature=0
    )
    assert final.choices[0].message.content


def test_streamed_tool_call_is_assembled_by_the_client(client: openai.OpenAI) -> None:
    pieces = ask(client, "Weather in Rome?", tools=[WEATHER], tool_choice="required", max_tokens=40, stream=True)
    calls = [c.choices[0].delta.tool_calls[0] for c in pieces if c.choices and c.choices[0].delta.tool_calls]
    assert calls[0].id and calls[0].function.name == "get_weather"
    json.loads("".join(c.function.arguments for c in calls))


def test_an_answer_is_continued(client: openai.OpenAI) -> None:
    turns: list[Any] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there, my name is"}]
    reply = client.chat.completions.create(
        model=MODEL, messages=turns, max_tokens=8, temperature=0, extra_body={"continue_final_message": True}
    )
    assert reply.choices[0].message.content


def test_completion_with_echo(client: openai.OpenAI) -> None:
    reply = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=5, echo=True, temperature=0)
    assert reply.choices[0].text.startswith("Once upon a time")


def test_embeddings_are_unit_vectors_and_find_the_answer_in_chinese(client: openai.OpenAI) -> None:
    texts = ["query: 北京有哪些著名景点？", "passage: 故宫和长城在北京。", "passage: pip installs Python packages."]
    model = "starter:multilingual-e5-small"
    rows = client.embeddings.create(model=model, input=texts, encoding_format="float").data
    vectors = [row.embedding for row in rows]
    assert all(abs(sum(x * x for x in v) - 1) < 1e-3 for v in vectors)
    near, far = (sum(a * b for a, b in zip(vectors[0], v, strict=True)) for v in vectors[1:])
    assert near > far + 0.05


def test_base64_embeddings_are_the_same_numbers(api_server: ApiServer) -> None:
    body = {"model": "starter:multilingual-e5-small", "input": "hello"}
    plain = api_server.http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    packed = api_server.http.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack(f"<{len(plain)}f", raw) == pytest.approx(plain, abs=1e-6)


# --- bad input --------------------------------------------------------------------------------------------------


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert error["message"] and error["request_id"] == response.headers["x-request-id"]
    return error


def post(server: ApiServer, **body: Any) -> httpx.Response:
    return server.http.post(
        "/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **body}
    )


def test_overflow_names_both_numbers(api_server: ApiServer) -> None:
    response = post(api_server, messages=[{"role": "user", "content": "word " * 3000}])
    error = error_of(response)
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["details"]["prompt_tokens"] > error["details"]["context"] == 1024
    assert error["hint"] and error["hint_zh"] != error["hint"]


def test_truncation_auto_drops_the_oldest_turns(api_server: ApiServer) -> None:
    turns = [{"role": r, "content": f"{r} " * 200} for _ in range(5) for r in ("user", "assistant")]
    turns.append({"role": "user", "content": "Hi"})
    answer = post(api_server, messages=turns, truncation="auto", max_tokens=4).json()
    assert answer["ninestory"]["dropped_messages"] > 0
    assert answer["usage"]["prompt_tokens"] <= 1024


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("best_friend", 1),
        ("functions", []),
        ("modalities", ["audio"]),
        ("n", 1000),
        ("temperature", -1),
        ("top_logprobs", 2),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(api_server: ApiServer, field: str, value: Any) -> None:
    response = post(api_server, **{field: value})
    assert response.status_code == 400
    assert field in json.dumps(error_of(response))


def test_no_op_fields_are_accepted(api_server: ApiServer) -> None:
    assert post(api_server, user="me", metadata={"a": "b"}, store=False, max_tokens=1).status_code == 200


def test_unknown_model_is_a_404_that_says_what_to_do(api_server: ApiServer) -> None:
    response = post(api_server, model="hf:nobody/nothing")
    assert response.status_code == 404
    assert "ninestory pull hf:nobody/nothing" in error_of(response)["hint"]


def test_junk_is_refused(api_server: ApiServer) -> None:
    headers = {"Content-Type": "application/json"}
    junk = api_server.http.post("/v1/chat/completions", content=b"\xff\x00{" * 350_000, headers=headers)
    deep = api_server.http.post("/v1/chat/completions", content=b"[" * 100_000 + b"]" * 100_000, headers=headers)
    assert junk.status_code == 400
    assert deep.status_code == 400 and error_of(deep)["code"] == "json_too_deep"
    assert post(api_server, max_tokens=1).status_code == 200


def test_a_foreign_host_or_origin_is_refused(api_server: ApiServer) -> None:
    assert api_server.http.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    assert api_server.http.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403
    assert api_server.http.get("/v1/models", headers={"Origin": api_server.url}).status_code == 200


def test_metrics_count_tokens(api_server: ApiServer) -> None:
    post(api_server, max_tokens=2)
    text = api_server.http.get("/metrics").text
    assert f'ninestory_tokens_total{{kind="completion",model="{MODEL}"}}' in text
