"""The remote engine against a real HTTP server on loopback, with the failures that endpoints have."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, InvalidRequest, RemoteFailed, Unauthorized, Unsupported
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    Constraint,
    EmbeddingRequest,
    Embeddings,
    Finished,
    Message,
    Request,
    Sampling,
    Text,
    TokenizeRequest,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    Usage,
)
from ninestory.runtimes.remote.engine import ATTEMPTS, RemoteEngine
from tests.fake_openai import FakeOpenAI, Fault

KEY = "sk-secret-0123456789"
NOW = {"retry-after": "0"}


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(key=KEY) as server:
        yield server


@pytest.fixture
def engine(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteEngine]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    engine = RemoteEngine(remote(fake.url), RuntimeSettings())
    yield engine
    engine.close()


def remote(url: str) -> ResolvedModel:
    return ResolvedModel(
        reference="openai:fake-gpt", path=None, format="remote", architecture="remote", tasks=("chat",), context=128_000,
        endpoint=url,
    )  # fmt: skip


def run(engine: RemoteEngine, request: Request) -> list[Chunk]:
    return list(engine.run(request, threading.Event()))


def ask(text: str = "hello there", **fields: Any) -> ChatRequest:
    return ChatRequest(messages=[Message(role="user", content=text)], **fields)


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(c.text for c in chunks if isinstance(c, Text) and c.index == index)


def test_a_chat_streams_and_counts(engine: RemoteEngine, fake: FakeOpenAI) -> None:
    chunks = run(engine, ask(max_tokens=20, stop=["x"], sampling=Sampling(temperature=0.5, seed=3)))
    assert text_of(chunks) == "You said: hello there"
    assert sum(isinstance(c, Text) for c in chunks) == 4
    assert isinstance(chunks[-1], Usage) and chunks[-1].prompt_tokens == 7
    path, body = fake.requests[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["max_completion_tokens"], body["seed"]) == ("fake-gpt", 20, 3)
    assert (body["stop"], body["temperature"]) == (["x"], 0.5)


def test_n_answers_come_apart(engine: RemoteEngine) -> None:
    chunks = run(engine, ask(n=2))
    assert text_of(chunks, 0) == text_of(chunks, 1) == "You said: hello there"


def test_tools_travel_both_ways(engine: RemoteEngine, fake: FakeOpenAI) -> None:
    tool = ToolSpec(name="get_weather", description="Weather")
    chunks = run(engine, ask(tools=[tool], tool_choice="get_weather"))
    calls = [c for c in chunks if isinstance(c, ToolCallDelta)]
    assert (calls[0].id, calls[0].name) == ("call_fake", "get_weather")
    assert "".join(c.arguments for c in calls) == '{"city": "Paris"}'
    assert next(c for c in chunks if isinstance(c, Finished)).reason == "tool_calls"
    call = ToolCall(id="call_fake", name="get_weather", arguments='{"city": "Paris"}')
    messages = [
        Message(role="user", content="?"),
        Message(role="assistant", tool_calls=[call]),
        Message(role="tool", tool_call_id="call_fake", content="sunny"),
    ]
    assert text_of(run(engine, ChatRequest(messages=messages, tools=[tool]))) == "You said: sunny"
    assert fake.requests[-1][1]["messages"][1]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_a_json_schema_is_asked_for_strictly(engine: RemoteEngine, fake: FakeOpenAI) -> None:
    run(engine, ask(constraint=Constraint(json_schema={"type": "object", "properties": {}})))
    assert fake.requests[0][1]["response_format"]["json_schema"]["strict"] is True
    run(engine, ask(constraint=Constraint(json_schema={"type": "object"})))
    assert fake.requests[1][1]["response_format"] == {"type": "json_object"}


def test_completion_and_embeddings(engine: RemoteEngine) -> None:
    assert text_of(run(engine, CompletionRequest(prompt="one", max_tokens=5))) == " and then one"
    [answer] = run(engine, EmbeddingRequest(inputs=["a", "bb"]))
    assert isinstance(answer, Embeddings)
    assert answer.vectors == [[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (ask(sampling=Sampling(top_k=5)), "top_k"),
        (ask(sampling=Sampling(min_p=0.1)), "min_p"),
        (ask(sampling=Sampling(repetition_penalty=1.1)), "repetition_penalty"),
        (ask(truncation="auto"), "truncation"),
        (ask(adapters={"law": 1.0}), "adapters"),
        (ask(template="vicuna"), "template"),
        (ask(thinking=True), "reasoning_effort"),
        (ask(continue_final_message=True), "continue_final_message"),
        (ask(constraint=Constraint(choices=["a"])), "constraint"),
        (CompletionRequest(prompt="a", logprobs=1), "logprobs"),
        (CompletionRequest(prompt="a", logprobs=0, echo=True), "logprobs"),
        (EmbeddingRequest(inputs=["a"], role="query"), "input_type"),
        (TokenizeRequest(text="a"), "tokenize"),
    ],
)
def test_what_it_cannot_honour_is_refused_and_not_sent(
    engine: RemoteEngine, fake: FakeOpenAI, request_: Request, named: str
) -> None:
    with pytest.raises(Unsupported, match=named):
        run(engine, request_)
    assert fake.requests == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(engine: RemoteEngine, fake: FakeOpenAI, status: int) -> None:
    fake.script += [Fault(status=status, headers=NOW), Fault(status=status, headers=NOW)]
    assert text_of(run(engine, ask())) == "You said: hello there"
    assert len(fake.requests) == 3


def test_the_pause_that_the_endpoint_asks_for_is_kept(engine: RemoteEngine, fake: FakeOpenAI) -> None:
    fake.script.append(Fault(status=429, headers={"retry-after": "1.2"}))
    began = time.monotonic()
    run(engine, ask())
    assert time.monotonic() - began >= 1.2


def test_a_lasting_failure_is_reported_with_status_and_words(engine: RemoteEngine, fake: FakeOpenAI) -> None:
    fake.script += [Fault(status=503, headers=NOW, body='{"error": {"message": "overloaded"}}')] * ATTEMPTS
    with pytest.raises(RemoteFailed, match="503: overloaded") as failed:
        run(engine, ask())
    assert failed.value.details["remote_status"] == 503
    assert len(fake.requests) == ATTEMPTS


def test_a_refusal_is_not_tried_again(engine: RemoteEngine, fake: FakeOpenAI) -> None:
    fake.script.append(Fault(status=400, body="<html>no</html>"))
    with pytest.raises(RemoteFailed, match="400: <html>no"):
        run(engine, ask())
    assert len(fake.requests) == 1


def test_a_redirect_is_not_followed(engine: RemoteEngine, fake: FakeOpenAI) -> None:
    fake.script.append(Fault(status=307, headers={"location": "http://example.com/"}))
    with pytest.raises(RemoteFailed, match="307"):
        run(engine, ask())


def test_a_refused_key_is_said_and_never_shown(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-but-secret")
    engine = RemoteEngine(remote(fake.url), RuntimeSettings())
    with pytest.raises(Unauthorized, match="401") as failed:
        run(engine, ask())
    assert "sk-wrong" not in str(failed.value.as_dict())
    engine.close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(after_chunks=3, then="cut"), "without saying"),
        (Fault(after_chunks=3, then="error"), "fell over"),
        (Fault(after_chunks=0, then="cut"), "without saying"),
        (Fault(body="data: {not json\n\n"), "not JSON"),
        (Fault(body='data: {"choices": [{"delta": 5}]}\n\n'), "another shape"),
        (Fault(body='{"choices": []}'), "without saying"),
    ],
)
def test_an_answer_that_breaks_off_is_an_error_and_not_an_answer(
    engine: RemoteEngine, fake: FakeOpenAI, fault: Fault, words: str
) -> None:
    fake.script.append(fault)
    with pytest.raises(RemoteFailed, match=words):
        run(engine, ask())
    assert text_of(run(engine, ask())) == "You said: hello there"  # the next one works


def test_embeddings_of_another_shape_are_refused(engine: RemoteEngine, fake: FakeOpenAI) -> None:
    fake.script.append(Fault(body='{"data": [{"index": 0}]}'))
    with pytest.raises(RemoteFailed, match="no embeddings"):
        run(engine, EmbeddingRequest(inputs=["a"]))


def test_cancel_does_not_wait_for_a_silent_endpoint(engine: RemoteEngine, fake: FakeOpenAI) -> None:
    fake.script.append(Fault(after_chunks=2, then="silent"))
    cancel = threading.Event()
    stream = engine.run(ask(), cancel)
    while not isinstance(next(stream), Text):
        pass
    threading.Timer(0.1, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        list(stream)
    assert time.monotonic() - began < 10  # the endpoint would be silent for twenty


def test_nobody_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ninestory.runtimes.remote.engine.ATTEMPTS", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        engine = RemoteEngine(remote(f"http://127.0.0.1:{closed.getsockname()[1]}/v1"), RuntimeSettings())
        with pytest.raises(RemoteFailed, match="could not be reached"):
            run(engine, ask())


def test_a_key_travels_only_over_tls_or_inside_this_machine() -> None:
    for url in ("http://example.com/v1", "http://192.168.1.5/v1", "ftp://127.0.0.1/v1", "http://127.0.0.1.evil.com/v1"):
        with pytest.raises(InvalidRequest, match="neither https"):
            RemoteEngine(remote(url), RuntimeSettings())
    RemoteEngine(remote("https://example.com/v1"), RuntimeSettings()).close()
    RemoteEngine(remote("http://[::1]:1/v1"), RuntimeSettings()).close()
    RemoteEngine(remote("http://192.168.1.5/v1"), RuntimeSettings(allow_http=True)).close()


def test_the_fake_server_runs_by_hand(repository: Path) -> None:
    command = [sys.executable, str(repository / "tests" / "fake_openai.py"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        assert httpx.get(f"{url}/models").json()["data"][0]["id"] == "fake-gpt"
        process.terminate()
