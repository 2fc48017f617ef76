"""A small original-layout directory of every chat family, on the command line and behind the server.

The weights are random, so the words mean nothing; that the two ways in agree on each of them, token for token, does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import openai

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


def chat(home: Path, model: Path | str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ninestory", "chat", str(model), "-p", QUESTION, "--max-tokens", "6"]
    command += ["--temperature", "0", "--threads", "1", "--context", "1024", *flags]
    environ = {**os.environ, "NINESTORY_HOME": str(home), "LANG": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=home, timeout=240)


def directory(home: Path, family: str) -> Path:
    folder = home / "models" / "catalogue" / CASES[family].system / family
    return next(folder.glob("*.pth"), folder)


@pytest.mark.parametrize("family", CASES)
def test_a_family_chats_by_path_and_behind_the_server(family: str, home: Path, server: ApiServer) -> None:
    case, path = CASES[family], directory(home, family)
    flags = ["--template", case.template] if case.needs_flag else []
    done = chat(home, path, "--json", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    by_path = json.loads(done.stdout)
    assert case.template in done.stderr

    name = f"{case.system}:{family}"
    body = {"model": name} | ({} if case.by_catalogue else {"template": case.template})
    loaded = server.http.post("/ninestory/v1/load", json=body)
    assert loaded.status_code == 200, loaded.text
    info = loaded.json()["info"]
    assert (info["runtime"], info["template"]) == ("torch", case.template)
    assert info["template_source"] == (
        "catalogue" if case.by_catalogue and family != "rwkv" else info["template_source"]
    )

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": QUESTION}]
    whole = client.chat.completions.create(model=name, messages=messages, max_tokens=6, temperature=0)
    assert whole.choices[0].message.content == by_path["text"]
    assert whole.usage is not None and whole.usage.prompt_tokens == by_path["usage"]["prompt_tokens"]
    stream = client.chat.completions.create(model=name, messages=messages, max_tokens=6, temperature=0, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == by_path["text"]
    server.http.post("/ninestory/v1/unload", json={"model": name})


def test_a_family_of_many_formats_asks_for_one(home: Path) -> None:
    done = chat(home, directory(home, "llama"))
    assert done.returncode == 2
    assert "--template" in done.stderr and "vicuna-v1.1" in done.stderr
    wrong = chat(home, directory(home, "llama"), "--template", "vicuna-1.1")
    assert wrong.returncode == 3 and "vicuna-v1.1" in wrong.stderr


def test_a_servers_model_is_told_its_template_at_load(home: Path, server: ApiServer) -> None:
    done = chat(home, "vicuna:llama", "--template", "vicuna-v0", "--server", server.url)
    assert done.returncode == 2 and "ninestory load vicuna:llama --template vicuna-v0" in done.stderr


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
    done = chat(home, broken, "--template", "vicuna-v1.1")
    assert done.returncode == 6 and shard.name in done.stderr and "Traceback" not in done.stderr
