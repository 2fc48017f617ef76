"""Alpaca's and BELLE's data generation against the original functions (tests/fixtures/prompts/README.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ninestory.evaluation.rouge import latin_tokens, rouge_l
from ninestory.floors.finetuning.self_instruct import Completion, RougeNovelty, SeedTask, encode_prompt, parse

from .conftest import FIXTURES

FOLDER = FIXTURES / "prompts"
FILES = {"en": "alpaca_selfinstruct.json", "zh": "belle_selfinstruct.json"}
DATA: dict[str, Any] = {
    language: json.loads((FOLDER / name).read_text(encoding="utf-8"))
    for language, name in FILES.items()
    if (FOLDER / name).exists()
}
CASES = [(lang, index, case) for lang, data in DATA.items() for index, case in enumerate(data["post_process"]["cases"])]
ENGLISH = DATA.get("en", {"rouge_l_pairs": []})


@pytest.mark.parametrize("language", DATA)
def test_the_prompt(language: str) -> None:
    case = DATA[language]["encode_prompt"]
    tasks = [SeedTask(**demonstration) for demonstration in case["demonstrations"]]
    assert encode_prompt(tasks, language, case["header_file"]) == case["prompt"]


@pytest.mark.parametrize(("language", "index", "case"), CASES, ids=[f"{lang}-{i}" for lang, i, _ in CASES])
def test_a_completion_becomes_tasks(language: str, index: int, case: dict[str, Any]) -> None:
    response = case["response"]
    if response is not None:
        text = response["message"]["content"] if "message" in response else response["text"]
        response = Completion(text, response["finish_reason"])
    made = parse(response, language, DATA[language]["post_process"]["num_prompt_instructions"])
    assert made == [SeedTask(**kept) for kept in case["kept"]]


@pytest.mark.parametrize("pair", ENGLISH["rouge_l_pairs"], ids=lambda pair: pair["target"][:20])
def test_rouge_l(pair: dict[str, Any]) -> None:
    target, prediction = latin_tokens(pair["target"]), latin_tokens(pair["prediction"])
    assert (target, prediction) == (pair["target_tokens"], pair["prediction_tokens"])
    score = rouge_l(target, prediction)
    assert score == pytest.approx((pair["precision"], pair["recall"], pair["f"]), abs=1e-9)


def test_the_pool_grows_by_what_is_new() -> None:
    case = ENGLISH["filtering"]
    novelty, kept = RougeNovelty(case["seed_pool"]), []
    for candidate in case["candidates"]:
        near = novelty.similarities(candidate)
        if max(near) > 0.7:
            continue
        kept.append((candidate, sum(near) / len(near), max(near)))
        novelty.add(candidate)
    assert [name for name, _, _ in kept] == [row["instruction"] for row in case["kept"]]
    for (_, mean, most), row in zip(kept, case["kept"], strict=True):
        assert (mean, most) == pytest.approx((row["avg_similarity_score"], row["max"]), abs=1e-9)
