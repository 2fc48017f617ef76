"""The asynchronous client, the client's own parsing, and how a server refuses to start."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest

from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]
QUESTION: list[Any] = [{"role": "user", "content": "Is the sky blue?"}]


class Verdict(pydantic.BaseModel):
    answer: Literal["yes", "no"]
    certain: bool


def test_the_clients_own_parsing_gives_an_object(api_server: ApiServer) -> None:
    client = openai.OpenAI(base_url=f"{api_server.url}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Verdict, max_tokens=40)
    assert isinstance(answer.choices[0].message.parsed, Verdict)


def test_asynchronous_streams_run_side_by_side(api_server: ApiServer) -> None:
    async def text(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=8, temperature=0, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def both() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{api_server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(text(client), text(client))

    first, second = asyncio.run(both())
    assert first and first == second


def test_a_streams_request_id_is_in_its_header_and_in_its_error(api_server: ApiServer) -> None:
    client = openai.OpenAI(base_url=f"{api_server.url}/v1", api_key="none", max_retries=0)
    long = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=long, stream=True)  # type: ignore[call-overload]
    body: Any = caught.value.body
    assert caught.value.request_id == body["request_id"] != ""


def serve(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ninestory", "serve", "--port", "0", *arguments]
    environ = {**os.environ, "NINESTORY_HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--host", "0.0.0.0"), "--api-key"), (("--preload", "hf:nobody/nothing"), "hf:nobody/nothing")],
    ids=["public without a key", "preload of what is not there"],
)
def test_a_server_that_cannot_do_as_told_ends_with_the_reason(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = serve(tmp_path, *arguments)
    assert ended.returncode not in (0, -9) and said in ended.stderr, ended
    assert "Traceback" not in ended.stderr


def test_a_home_has_one_server(tmp_path: Path) -> None:
    with ApiServer(tmp_path) as server:
        ended = serve(tmp_path)
        assert ended.returncode != 0 and "Traceback" not in ended.stderr
        assert server.http.get("/health").status_code == 200


def test_a_preloaded_model_is_there_before_it_is_asked(tmp_path: Path) -> None:
    with ApiServer(tmp_path, serve_preload=MODEL, runtime_slots="1") as server:
        for _ in range(600):
            rows = server.http.get("/ninestory/v1/ps").json()["data"]
            if rows and rows[0]["state"] == "ready":
                break
            time.sleep(0.1)
        assert [(row["model"], row["state"]) for row in rows] == [(MODEL, "ready")]
