"""A small original-layout directory of every chat family, by the verb `chat` and behind one server.

The verb runs in this process, which has imported torch already; test_torch_checkpoints runs one in its own. The weights are random, so the words mean nothing; that the two ways in agree on each of them, token for token, does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import openai
from typer.testing import CliRunner

from ninestory.cli.chat.chat import app
from ninestory.core.errors import InvalidRequest, NinestoryError
from tests.e2e.api_server import ApiServer
from tests.tiny_checkpoints import FAMILIES

pytestmark = [pytest.mark.slow, pytest.mark.torch]
QUESTION = "hello, world: what is 你好?"


@dataclass(frozen=True)
class Case:
    """`system`: the catalogue name that the directory is taken into the store under; `template`: of a bare path."""

    system: str
    template: str
    needs_flag: bool = True  # the files alone do not say the format

    @property
    def by_catalogue(self) -> bool:
        return self.system != "gpt4all"  # whose catalogue entry leaves it to the files


CASES = {
    "llama": Case("vicuna", "vicuna-v1.1"),
    "bloom": Case("belle", "belle"),
    "falcon": Case("openbuddy", "openbuddy"),
    "gptj": Case("gpt4all", "gpt4all-snoozy"),
    "chatglm": Case("chatglm-6b", "chatglm-v1", needs_flag=False),
    "chatglm-int8": Case("chatglm-6b", "chatglm-v1", needs_flag=False),
    "chatglm-int4": Case("chatglm-6b", "chatglm-v1", needs_flag=False),
    "moss": Case("moss", "moss", needs_flag=False),
    "moss-int4": Case("moss", "moss", needs_flag=False),
    "rwkv": Case("chatrwkv", "rwkv-world", needs_flag=False),
}


def test_every_family_has_a_case() -> None:
    assert set(CASES) == set(FAMILIES)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every family's directory in the store, under its catalogue name with the family as variant."""
    root = tmp_path_factory.mktemp("home")
    for family, case in CASES.items():
        FAMILIES[family](root / "models" / "catalogue" / case.system / family)
    return root


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ApiServer]:
    with ApiServer(home, runtime_context="1024", runtime_slots="2", serve_keep_alive="5") as running:
        yield running


def chat(home: Path, model: Path | str, *flags: str) -> tuple[str, str]:
    """What the verb writes to stdout and stderr. Raises what it raises."""
    arguments = [str(model), "-p", QUESTION, "--max-tokens", "6"]
    arguments += ["--temperature", "0", "--repetition-penalty", "1", "--threads", "1", "--context", "1024", *flags]
    done = CliRunner().invoke(app, arguments, env={"NINESTORY_HOME": str(home)}, catch_exceptions=False)
    return done.stdout, done.stderr


def directory(home: Path, family: str) -> Path:
    folder = home / "models" / "catalogue" / CASES[family].system / family
    return next(folder.glob("*.pth"), folder)


@pytest.mark.parametrize("family", CASES)
def test_a_family_chats_by_path_and_behind_the_server(family: str, home: Path, server: ApiServer) -> None:
    case, path = CASES[family], directory(home, family)
    flags = ["--template", case.template] if case.needs_flag else []
    out, _ = chat(home, path, "--json", *flags)
    by_path = json.loads(out)
    assert by_path["engine"]["template"] == case.template

    name = f"{case.system}:{family}"
    body = {"model": name} | ({} if case.by_catalogue else {"template": case.template})
    loaded = server.http.post("/ninestory/v1/load", json=body)
    assert loaded.status_code == 200, loaded.text
    info = loaded.json()["info"]
    assert (info["runtime"], info["dtype"], info["template"]) == ("torch", "float32", case.template)
    assert info["template_source"] == (
        "catalogue" if case.by_catalogue and family != "rwkv" else info["template_source"]
    )

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": QUESTION}]
    # A name brings the catalogue's penalty, a bare path does not; greedy without one is the same both ways.
    greedy: Any = {"max_tokens": 6, "temperature": 0, "extra_body": {"repetition_penalty": 1}}
    whole = client.chat.completions.create(model=name, messages=messages, **greedy)
    assert whole.choices[0].message.content == by_path["text"]
    assert whole.usage is not None and whole.usage.prompt_tokens == by_path["usage"]["prompt_tokens"]
    stream = client.chat.completions.create(model=name, messages=messages, stream=True, **greedy)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == by_path["text"]
    server.http.post("/ninestory/v1/unload", json={"model": name})


def test_a_family_of_many_formats_asks_for_one(home: Path) -> None:
    with pytest.raises(NinestoryError) as none:
        chat(home, directory(home, "llama"))
    assert none.value.exit_code == 2
    assert "--template" in none.value.hint and "vicuna-v1.1" in str(none.value) + none.value.hint
    with pytest.raises(NinestoryError) as wrong:
        chat(home, directory(home, "llama"), "--template", "vicuna-1.1")
    assert wrong.value.exit_code == 3 and "vicuna-v1.1" in str(wrong.value) + wrong.value.hint


def test_a_servers_model_is_told_how_to_load_at_load(home: Path, server: ApiServer) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(home, "vicuna:llama", "--template", "vicuna-v0", "--fast", "--server", server.url)
    assert "ninestory load vicuna:llama --template vicuna-v0 --fast" in refused.value.hint


def test_fast_is_named_at_load_and_told_in_the_report(home: Path, server: ApiServer) -> None:
    notes = []
    for given in ({"fast": True}, {"fast": False}, {"dtype": "int8"}):
        loaded = server.http.post("/ninestory/v1/load", json={"model": "moss:moss", **given})
        assert loaded.status_code == 200, loaded.text
        notes.append("; ".join(loaded.json()["info"]["notes"]))
    assert "the fastest linears" in notes[0] and "do not depend on their neighbours" in notes[1]
    assert "linears in int8" in notes[2]
    refused = server.http.post("/ninestory/v1/load", json={"model": "moss:moss", "dtype": "int3"})
    assert refused.status_code == 400 and "dtype" in refused.text
    server.http.post("/ninestory/v1/unload", json={"model": "moss:moss"})


def test_the_server_answers_for_a_directory_inside_the_home(home: Path, server: ApiServer) -> None:
    folder = FAMILIES["moss"](home / "own/moss")
    body = {"model": str(folder), "max_tokens": 4, "seed": 1, "messages": [{"role": "user", "content": "hi"}]}
    answers = [server.http.post("/v1/chat/completions", json=body) for _ in range(2)]
    assert all(answer.status_code == 200 for answer in answers), answers[0].text
    assert answers[0].json()["choices"] == answers[1].json()["choices"]
    assert answers[0].json()["usage"]["completion_tokens"] >= 1


def test_a_wrong_template_is_refused_and_forgotten(home: Path, server: ApiServer) -> None:
    refused = server.http.post("/ninestory/v1/load", json={"model": "moss:moss", "template": "mos"})
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "unknown_template"
    loaded = server.http.post("/ninestory/v1/load", json={"model": "moss:moss"})
    assert loaded.status_code == 200 and loaded.json()["info"]["template"] == "moss"


def test_a_chat_beyond_the_context_is_refused_with_both_numbers(home: Path, server: ApiServer) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "hello " * 2000}]
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="moss:moss", messages=messages, max_tokens=6)
    assert error.value.code == "context_length_exceeded" and "1024" in str(error.value)


def test_files_that_do_not_fit_are_an_error_in_words(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(directory(home, "llama"), broken)
    shard = sorted(broken.glob("*.bin"))[-1]
    shard.unlink()
    with pytest.raises(NinestoryError, match=shard.name) as damaged:
        chat(home, broken, "--template", "vicuna-v1.1")
    assert damaged.value.exit_code == 6
