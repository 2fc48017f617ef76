"""MOSS's dialogue on a real engine: a small checkpoint of its layout, whose words mean nothing and whose marks count."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("torch")

from ninestory.floors.chat import ChatModel
from ninestory.floors.chat.moss import MossDialogue, calculator, completer
from ninestory.library import load
from ninestory.runtimes.protocol import CompletionRequest, Finished, Sampling, Text
from ninestory.tokenizers.load import load_tokenizer
from ninestory.tokenizers.tokenizer import Tokenizer
from tests.tiny_checkpoints import FAMILIES

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[ChatModel, Tokenizer]:
    path: Path = FAMILIES["moss"](tmp_path_factory.mktemp("moss") / "model")
    return load(str(path), context=1024, slots=1), load_tokenizer(path)


def test_a_mark_that_is_a_token_ends_a_pass(loaded: tuple[ChatModel, Tokenizer]) -> None:
    model, tokenizer = loaded
    (mark,) = tokenizer.encode("<eoc>", special=True)
    certain = Sampling(temperature=0, logit_bias={mark: 1000.0})
    for stop, reason in (("<eoc>", "stop"), ("<eor>", "length")):
        request = CompletionRequest(prompt=tokenizer.encode("hello"), stop=[stop], max_tokens=3, sampling=certain)
        chunks = list(model.run(request, threading.Event()))
        assert [chunk.reason for chunk in chunks if isinstance(chunk, Finished)] == [reason]
        assert "".join(chunk.text for chunk in chunks if isinstance(chunk, Text)) == ""


def test_a_round_runs_through_both_passes(loaded: tuple[ChatModel, Tokenizer]) -> None:
    model, tokenizer = loaded
    dialogue = MossDialogue(completer(model, tokenizer, max_tokens=6, sampling=Sampling(temperature=0)), [calculator()])
    first = dialogue.ask("What is 2 + 2?")
    assert first.results == [] and first.thoughts != "None", "random words are no command"
    dialogue.ask("And 3 + 3?")
    assert len(dialogue.rounds) == 2
