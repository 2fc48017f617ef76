"""ChatGLM-6B's training rows against its original preprocessing (tests/fixtures/chatglm/README.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ninestory.floors.finetuning.masking import mask_conversation
from ninestory.tokenizers.chatglm import ChatGLMTokenizer

from .conftest import FIXTURES

FOLDER = FIXTURES / "chatglm"
_TABLE: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text()) if FOLDER.exists() else {}
CASES = {name: case for name, case in _TABLE.items() if case.get("kind", "").startswith("sft")}


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if "example" in c])
def test_rows(name: str) -> None:
    case = CASES[name]
    tokenizer = ChatGLMTokenizer(FOLDER / "ice_text.model")
    example, source, target = case["example"], case["max_source_length"], case["max_target_length"]
    past = [turn for pair in example.get("history", []) for turn in zip(("user", "assistant"), pair, strict=True)]
    turns = [*past, ("user", example["content"]), ("assistant", example["summary"])]
    messages = [{"role": role, "content": content} for role, content in turns]
    template = "chatglm-v1-rounds" if "history" in example else "chatglm-v1"
    row = mask_conversation(tokenizer, template, messages, max_length=source + target, max_source=source)
    (ids,), (labels,) = case["input_ids"], case["labels"]
    length = len(row.ids)
    assert row.ids == ids[:length] and row.labels == labels[:length]
    assert set(ids[length:]) <= {tokenizer.pad_id} and set(labels[length:]) <= {-100}
