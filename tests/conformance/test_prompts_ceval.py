"""C-Eval's questions and the reading of answers, against Chinese-LLaMA-Alpaca's evaluator."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ninestory.evaluation import ceval

from .conftest import FIXTURES

_PATH = FIXTURES / "prompts" / "chinese_alpaca_prompts.json"
ORACLE: dict[str, Any] = json.loads(_PATH.read_text(encoding="utf-8"))["ceval"] if _PATH.exists() else {}

pytestmark = pytest.mark.skipif(not ORACLE, reason="this set of fixtures has none of it")


def item() -> ceval.Item:
    row = ORACLE["row"]
    return ceval.Item(row["question"], {k: row[k] for k in ceval.LETTERS}, row["answer"], row["explanation"])


@pytest.mark.parametrize(
    ("name", "cue"),
    [("zero_shot_plain", "plain"), ("zero_shot_with_prompt", "prompt"), ("zero_shot_cot_prompt", "steps")],
)
def test_questions(name: str, cue: str) -> None:
    assert ceval.shown(item(), cue) == ORACLE[name]


def test_examples() -> None:
    assert ceval.solved(item()) == ORACLE["with_answer"]
    assert ceval.solved(item(), steps=True) == ORACLE["with_answer_cot"]
    head, _, rest = ORACLE["few_shot_2"].partition("\n\n")
    subject = head.split("关于")[1].split("考试")[0]
    second = rest.removeprefix(ORACLE["with_answer"])
    lines = second.strip().split("\n")
    choices = dict(line.split(". ", 1) for line in lines[1:5])
    other = ceval.Item(lines[0], choices, lines[5].split("：")[1])
    assert ceval.examples(subject, [item(), other]) == ORACLE["few_shot_2"]


@pytest.mark.parametrize("case", ORACLE.get("extract_answer", []), ids=lambda case: case["generated"])
def test_answers_are_read(case: dict[str, Any]) -> None:
    """The original's last resort is a random letter; here it is None."""
    assert ceval.extract(case["generated"], item()) == (case["answer"], case["direct"])


def test_what_means_no_letter_is_none() -> None:
    assert ceval.extract("不知道", item()) == (None, False)
