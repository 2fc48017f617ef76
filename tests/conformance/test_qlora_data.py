"""Guanaco's data functions against the original ones (tests/fixtures/nf4/README.md, qlora_data.json)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ninestory.core.errors import InvalidRequest
from ninestory.floors.finetuning.guanaco import IGNORED, SourceTarget, sample, source_target

from .conftest import FIXTURES

FILE = FIXTURES / "nf4" / "qlora_data.json"
DATA: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"datasets": [], "collator": []}


@pytest.mark.parametrize("case", DATA["datasets"], ids=lambda case: f"{case['dataset']}-{case['dataset_format']}")
def test_rows_become_pairs(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(InvalidRequest, match=case["dataset"]):
            source_target({}, case["dataset"], case["dataset_format"])
        return
    for row, expected in zip(case["rows"], case["formatted"], strict=True):
        made = source_target(row, case["dataset"], case["dataset_format"])
        assert (made.source, made.target, made.length) == (expected["input"], expected["output"], expected["length"])


@pytest.mark.parametrize(
    "case", DATA["collator"], ids=lambda case: f"{case['source_max_len']}-{case['target_max_len']}"
)
def test_pairs_become_ids_and_labels(case: dict[str, Any]) -> None:
    vocabulary, output = case["vocab"], case["output"]

    def encode(text: str) -> list[int]:
        return [vocabulary.get(word, vocabulary["<unk>"]) for word in re.findall(r"\w+|[^\w\s]", text)]

    for index, row in enumerate(case["instances"]):
        # For generation the original's collator leaves the target out.
        made = SourceTarget(row["input"], "" if case["predict_with_generate"] else row["output"])
        ids, labels = sample(
            made,
            encode,
            vocabulary["<s>"],
            vocabulary["</s>"],
            source_max=case["source_max_len"],
            target_max=0 if case["predict_with_generate"] else case["target_max_len"],
            train_on_source=case["train_on_source"],
        )
        real = sum(output["attention_mask"][index])
        assert ids == output["input_ids"][index][:real]
        assert set(output["input_ids"][index][real:]) <= {vocabulary["[PAD]"]}
        if "labels" in output:
            assert labels == output["labels"][index][:real]
            assert set(output["labels"][index][real:]) <= {IGNORED}


def test_a_missing_input_is_an_empty_one() -> None:
    row = {"instruction": "Say hi", "input": None, "output": "hi"}
    assert source_target(row, "alpaca") == source_target(
        row | {"input": ""}, "alpaca"
    )  # the original writes "None" there


def test_a_row_without_its_columns_is_named() -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        source_target({"prompt": "p"}, "self-instruct")
