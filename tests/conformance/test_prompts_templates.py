"""The prompt formats against what the original renderers gave, to the byte (tests/fixtures/prompts/README.md).

A template of ours names the originals it reproduces in `aliases`; every case of such a name is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ninestory.models.templates import Template, load_templates, render, segments

from .conftest import FIXTURES

Messages = list[dict[str, Any]]
Case = tuple[str, str, Messages, bool, str]  # alias, label, messages, whether a generation prompt follows, the text


def read(name: str) -> Any:
    path = FIXTURES / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def rounds(pairs: list[list[str]], query: str | None = None) -> Messages:
    """[[question, answer], …] as messages; an empty answer is one that is to come."""
    messages: Messages = []
    for question, answer in [*pairs, *([[query, ""]] if query is not None else [])]:
        messages.append({"role": "user", "content": question})
        if answer:
            messages.append({"role": "assistant", "content": answer})
    return messages


def fastchat() -> Iterator[Case]:
    table = read("prompts/fastchat_templates.json")
    for name, entry in table.get("templates", {}).items():
        for label, text in entry["prompts"].items():
            conversation = table["conversations"][label]
            system = [{"role": "system", "content": conversation["system"]}] if "system" in conversation else []
            turns = [{"role": role, "content": content} for role, content in conversation["turns"]]
            open_ended = turns[-1]["content"] is None
            yield f"fastchat:{name}", label, system + (turns[:-1] if open_ended else turns), open_ended, text


def gpt4all() -> Iterator[Case]:
    table = read("prompts/gpt4all_chat_templates.json")
    for model in table.get("models", []):
        for label, text in model["renders"].items():
            yield f"gpt4all:{model['name']}", label, table["messages"][label], True, text


def instructions() -> Iterator[Case]:
    for name, rows in read("prompts/cornucopia_prompts.json").get("templates", {}).items():
        for number, row in enumerate(rows):
            message = {"role": "user", "content": row["instruction"], "input": row["input"]}
            yield f"cornucopia:{name}", str(number), [message], True, row["prompt"]
    for row in read("prompts/belle_prompts.json").get("inference_prompts", []):
        yield "belle:inference_prompts", row["input"], rounds([], row["input"]), True, row["prompt"]


def chinese_alpaca() -> Iterator[Case]:
    table = read("prompts/chinese_alpaca_prompts.json")
    for row in table.get("inference_hf", []):
        message = {"role": "user", "content": row["instruction"], "input": row["input"]}
        yield "chinese-alpaca:inference_hf", row["instruction"], [message], True, row["prompt"]
    for row in table.get("gradio", []):
        yield "chinese-alpaca:gradio", row["history"][-1][0], rounds(row["history"]), True, row["prompt"]
    for row in table.get("openai_api_completion", []):
        yield "chinese-alpaca:openai_api_completion", row["prompt"], rounds([], row["prompt"]), True, row["text"]
    for row in table.get("openai_api_chat", []):
        messages = [{"role": role, "content": content} for role, content in row["messages"]]
        yield "chinese-alpaca:openai_api_chat", messages[-1]["content"], messages, True, row["text"]


def conversations() -> Iterator[Case]:
    for row in read("chatglm/tokenizer_cases.json").get("chat_prompts", []):
        yield "chatglm:chat_prompts", row["query"], rounds(row["history"], row["query"]), True, row["prompt"]
    if moss := read("moss/prompts.json").get("plain"):
        yield "moss:plain", "turns", rounds(moss["turns"], moss["query"]), True, moss["prompt"]
    images = read("minigpt4/meta.json")
    for name, texts in images.get("prompts", {}).items():
        question = images["dialogue"]["q1"]
        yield f"minigpt4:{name}", "text_only", rounds([], question), True, texts["text_only"]
    buddy = read("prompts/openbuddy_prompts.json")
    messages = [{"role": "system", "content": buddy["system"]}, *buddy["turns"]] if buddy else []
    for name in ("legacy_below_v21_1", "thinker_v26_think", "thinker_v26_direct"):
        if buddy:
            yield f"openbuddy:{name}", name, messages, True, buddy[name]


BY_ALIAS: dict[str, Template] = {alias: t for t in load_templates().values() for alias in t.aliases}
SOURCES = (fastchat, gpt4all, instructions, chinese_alpaca, conversations)
CASES = [case for source in SOURCES for case in source() if case[0] in BY_ALIAS]


@pytest.mark.parametrize(("alias", "label", "messages", "generate", "text"), CASES)
def test_a_prompt_is_the_originals(alias: str, label: str, messages: Messages, generate: bool, text: str) -> None:
    assert render(BY_ALIAS[alias], messages, generate) == text


def test_the_originals_stop_strings_are_kept() -> None:
    for name, entry in read("prompts/fastchat_templates.json").get("templates", {}).items():
        if entry["stop_str"] and (template := BY_ALIAS.get(f"fastchat:{name}")):
            assert entry["stop_str"] in template.stops


ALPACA = read("prompts/alpaca_sft.json")


@pytest.mark.parametrize(
    "case", ALPACA.get("cases", []), ids=lambda case: f"{case['example']}-{case['model_max_length']}"
)
def test_what_alpaca_learns_is_the_answer_and_its_end(case: dict[str, Any]) -> None:
    row = ALPACA["examples"][case["example"]]
    question = {"role": "user", "content": row["instruction"], "input": row.get("input", "")}
    pieces = segments("alpaca", [question, {"role": "assistant", "content": row["output"]}], False)
    assert "".join(text for text, learned in pieces if not learned) == case["source"]
    assert "".join(text for text, learned in pieces if learned) == case["target"]
