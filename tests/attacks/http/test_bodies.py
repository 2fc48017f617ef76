"""Bodies that are almost right: half characters, control characters, numbers for booleans, figures out of range."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ninestory.floors.finetuning.data_files import read_rows
from tests.conftest import share_converted
from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]
OWN = "/ninestory/v1"
HALF = "\ud83d"  # the first half of an emoji
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Count: one, two,"}], "max_tokens": 6}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, converted: Path) -> Iterator[ApiServer]:
    home = share_converted(tmp_path_factory.mktemp("bodies"), converted)
    with ApiServer(home, runtime_context="128", runtime_slots="1") as server:
        yield server


def refused(server: ApiServer, path: str, body: dict[str, Any], verb: str = "POST") -> tuple[int, str | None]:
    """Status, and the field that the error names (Anthropic's errors have no place for it)."""
    sent = json.dumps(body)  # httpx would not encode half a character; JSON escapes it
    answer = server.http.request(verb, path, content=sent, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    return answer.status_code, error.get("param") or error["message"].split()[0]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {**ASK, "messages": [{"role": "user", "content": HALF}]}, "messages.0.content"),
        ("/v1/chat/completions", {**ASK, "messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]}, "messages.0.content.0.text"),
        ("/v1/chat/completions", {**ASK, "metadata": {HALF: "x"}}, "metadata"),
        ("/v1/chat/completions", {**ASK, "model": HALF}, "model"),
        ("/v1/chat/completions", {**ASK, "stop": ["a", HALF]}, "stop.1"),
        ("/v1/completions", {"model": MODEL, "prompt": HALF}, "prompt"),
        ("/v1/responses", {"model": MODEL, "input": f"a{HALF}b"}, "input"),
        ("/v1/messages", {**ASK, "system": HALF}, "system"),
        ("/v1/embeddings", {"model": MODEL, "input": ["a", HALF]}, "input.1"),
        ("/v1/rerank", {"query": HALF, "documents": ["a"]}, "query"),
        ("/v1/vector_stores", {"name": HALF}, "name"),
        (f"{OWN}/conversations", {"settings": {"deep": [{"x": HALF}]}}, "settings.deep.0.x"),
        (f"{OWN}/presets", {"name": HALF}, "name"),
        (f"{OWN}/presets", {"name": "p", "settings": {"stop": HALF}}, "settings.stop"),
        (f"{OWN}/votes", {"model_a": "a", "model_b": "b", "winner": "tie", "question": HALF}, "question"),
        (f"{OWN}/prompts/render", {"prompt": "summarise", "values": {"text": HALF}}, "values.text"),
        (f"{OWN}/session", {"api_key": HALF}, "api_key"),
        ("/v1/fine_tuning/jobs", {"model": MODEL, "training_file": HALF}, "training_file"),
    ],
)  # fmt: skip
def test_half_a_character_is_a_400_that_names_the_field(
    server: ApiServer, path: str, body: dict[str, Any], field: str
) -> None:
    assert refused(server, path, body) == (400, field)


@pytest.mark.parametrize(
    "path",
    [f"{OWN}/tuning/runs/%00/report", "/v1/files/%00", "/v1/vector_stores/a%00b", f"{OWN}/guides/%0a", "/v1/models/%00",
     f"{OWN}/jobs/%00", f"{OWN}/conversations/%00", "/v1/responses/%00", f"{OWN}/conversations?q=%00", "/v1/files?after=%0d"],
)  # fmt: skip
def test_control_characters_in_paths_and_queries_are_a_400(server: ApiServer, path: str) -> None:
    answer = server.http.get(path)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_text", answer.text


@pytest.mark.parametrize("path", [f"{OWN}/tuning/runs/{'n' * 5000}/report", "/v1/files/" + "f" * 5000,
                                  "/v1/vector_stores/" + "v" * 5000, "/v1/models/" + "m" * 5000,
                                  f"{OWN}/guides/{'g' * 5000}"])  # fmt: skip
def test_names_without_end_in_a_path_are_not_found(server: ApiServer, path: str) -> None:
    assert server.http.get(path).status_code in (400, 404)


def test_rows_with_half_a_character_are_bad_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": HALF, "completion": "b"}, {"messages": [{"content": HALF}]}]
    for name, text in (("rows.jsonl", "\n".join(map(json.dumps, rows))), ("rows.json", json.dumps(rows))):
        (tmp_path / name).write_text(text)
        faults = [row.fault for row in read_rows(tmp_path / name)]
        assert faults[0] == "" and faults[1].startswith("prompt holds half") and "messages.0.content" in faults[2]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {**ASK, "stream": 1}, "stream"),
        ("/v1/chat/completions", {**ASK, "stream": "true"}, "stream"),
        ("/v1/chat/completions", {**ASK, "logprobs": 0}, "logprobs"),
        ("/v1/chat/completions", {**ASK, "max_tokens": "6"}, "max_tokens"),
        ("/v1/chat/completions", {**ASK, "max_tokens": True}, "max_tokens"),
        ("/v1/chat/completions", {**ASK, "temperature": "0"}, "temperature"),
        ("/v1/chat/completions", {**ASK, "temperature": 2.1}, "temperature"),
        ("/v1/chat/completions", {**ASK, "top_p": -0.1}, "top_p"),
        ("/v1/completions", {"model": MODEL, "prompt": "x", "temperature": 2.1}, "temperature"),
        ("/v1/responses", {"model": MODEL, "input": "x", "temperature": 2.1}, "temperature"),
        ("/v1/responses", {"model": MODEL, "input": "x", "store": 1}, "store"),
        ("/v1/messages", {**ASK, "temperature": 1.1}, "temperature:"),
        (f"{OWN}/conversations", {"pinned": 1}, "pinned"),
        (f"{OWN}/votes", {"model_a": "a", "model_b": "b", "winner": "tie", "blind": 0}, "blind"),
        (f"{OWN}/load", {"model": MODEL, "fast": "yes"}, "fast"),
    ],
)
def test_nothing_is_converted_from_another_type(server: ApiServer, path: str, body: dict[str, Any], field: str) -> None:
    assert refused(server, path, body) == (400, field)


def test_json_knows_one_kind_of_number(server: ApiServer) -> None:
    chosen = {"max_tokens": 1.0, "temperature": 1, "n": 1.0, "top_k": 40.0}
    assert server.http.post("/v1/chat/completions", json={**ASK, **chosen}).status_code == 200


def test_top_p_of_zero_is_the_likeliest_token_in_every_route(server: ApiServer) -> None:
    """With a temperature of 2 the answers would differ otherwise."""
    hot = {"temperature": 2, "top_p": 0}

    def said(**sampling: Any) -> list[str]:
        chat = server.http.post("/v1/chat/completions", json={**ASK, **sampling}).raise_for_status().json()
        prompt = {"model": MODEL, "prompt": "Count: one, two,", "max_tokens": 6}
        text = server.http.post("/v1/completions", json={**prompt, **sampling}).raise_for_status().json()
        asked = {"model": MODEL, "input": "Count: one, two,", "max_output_tokens": 6}
        response = server.http.post("/v1/responses", json={**asked, **sampling}).raise_for_status().json()
        message = server.http.post(
            "/v1/messages", json={**ASK, **sampling, "temperature": min(1, sampling["temperature"])}
        )
        return [
            chat["choices"][0]["message"]["content"],
            text["choices"][0]["text"],
            response["output"][-1]["content"][0]["text"],
            message.raise_for_status().json()["content"][0]["text"],
        ]

    greedy = said(temperature=0)
    assert said(**hot) == said(**hot) == greedy
