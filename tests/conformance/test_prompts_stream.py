"""Greedy generation of FastChat's token loop on its small model, against the torch engine."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from ninestory.floors.chat import ChatModel
from ninestory.library import load
from ninestory.runtimes.protocol import CompletionRequest, Finished, Sampling, Text, Usage
from ninestory.tokenizers.load import load_tokenizer

from .conftest import FIXTURES

pytestmark = pytest.mark.torch
FOLDER = FIXTURES / "prompts"
_PATH = FOLDER / "fastchat_stream.json"
ORACLE: dict[str, Any] = json.loads(_PATH.read_text(encoding="utf-8")) if _PATH.exists() else {}
# Not here: ids to stop at are no field of a request, and a repetition penalty looks at the answer only, while the
# original's looks at the prompt too.
CASES = [
    pytest.param(case, variant, id=f"{i}-{variant['name']}")
    for i, case in enumerate(ORACLE.get("cases", []))
    for variant in case["variants"]
    if not {"stop_token_ids", "repetition_penalty"} & set(variant["params"])
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ChatModel, Path]]:
    folder = tmp_path_factory.mktemp("stream")
    shutil.copy(FOLDER / ORACLE["model"], folder / "model.safetensors")
    shutil.copy(FOLDER / ORACLE["tokenizer"], folder / "tokenizer.model")
    config = {"model_type": "llama", "architectures": [ORACLE["config"]["architecture"]], **ORACLE["config"]}
    (folder / "config.json").write_text(json.dumps(config))
    with load(str(folder), context=ORACLE["context_len"], slots=1, template="vicuna-v1.1") as loaded:
        yield loaded, folder


@pytest.mark.parametrize(("case", "variant"), CASES)
def test_the_same_words(case: dict[str, Any], variant: dict[str, Any], model: tuple[ChatModel, Path]) -> None:
    loaded, folder = model
    given, last = variant["params"], variant["events"][-1]
    tokenizer = load_tokenizer(folder)
    assert [*tokenizer.bos_ids, *tokenizer.encode(given["prompt"])] == case["prompt_ids"]
    stops = given.get("stop") or []
    request = CompletionRequest(
        prompt=given["prompt"],
        echo=given["echo"],
        max_tokens=given["max_new_tokens"],
        stop=[stops] if isinstance(stops, str) else stops,
        sampling=Sampling(temperature=0),
        logprobs=given.get("logprobs"),
    )
    chunks = list(loaded.run(request, threading.Event()))
    text = "".join(chunk.text for chunk in chunks if isinstance(chunk, Text))
    (usage,) = (chunk for chunk in chunks if isinstance(chunk, Usage))
    (finished,) = (chunk for chunk in chunks if isinstance(chunk, Finished))
    assert usage.prompt_tokens == last["usage"]["prompt_tokens"]
    assert finished.reason == last["finish_reason"]
    if request.stop:  # the original cuts at the last place where it stands, here at the first
        whole = case["variants"][0]["events"][-1]["text"]
        first = min(whole.index(stop) for stop in request.stop if stop in whole)
        assert text.strip() == whole[:first].strip() and last["text"].startswith(text.strip())
    else:
        assert text.strip().replace("  ", " ") == last["text"].strip().replace("  ", " ")
        assert usage.completion_tokens == last["usage"]["completion_tokens"] + 1, "the original counts from 0"
    if "logprobs" in given:
        found = [entry.logprob for chunk in chunks if isinstance(chunk, Text) for entry in chunk.logprobs]
        assert found == pytest.approx(last["logprobs"]["token_logprobs"], abs=1e-3)
