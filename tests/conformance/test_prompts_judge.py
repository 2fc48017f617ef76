"""Judging in MT-bench's form against its original code (tests/fixtures/prompts/mt_bench.json)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ninestory.evaluation import judge

from .conftest import FIXTURES

_PATH = FIXTURES / "prompts" / "mt_bench.json"
ORACLE: dict[str, Any] = json.loads(_PATH.read_text(encoding="utf-8")) if _PATH.exists() else {}

pytestmark = pytest.mark.skipif(not ORACLE, reason="this set of fixtures has none of it")


@pytest.mark.parametrize("case", ORACLE.get("single", []), ids=lambda c: repr(c["reply"]))
def test_ratings(case: dict[str, Any]) -> None:
    assert judge.parse_rating(case["reply"]) == case["rating"]


@pytest.mark.parametrize("case", ORACLE.get("pair", []), ids=lambda c: repr(c["reply"]))
def test_verdicts(case: dict[str, Any]) -> None:
    assert judge.parse_verdict(case["reply"]) == case["winner"]


@pytest.mark.parametrize("case", ORACLE.get("pair_rating", []), ids=lambda c: repr(c["reply"]))
def test_two_ratings(case: dict[str, Any]) -> None:
    assert judge.parse_two_ratings(case["reply"]) == case["winner"]


@pytest.mark.parametrize("case", ORACLE.get("position_swap", []), ids=lambda c: f"{c['g1_winner']}-{c['g2_winner']}")
def test_places_are_exchanged(case: dict[str, Any]) -> None:
    """Two judges that say what the fixture's said: the verdicts are read as the original reads them."""
    row = ORACLE["question"]
    question = judge.JudgeQuestion(str(row["question_id"]), row["category"], row["turns"][:1])
    replies = iter([case["game1_reply"], case["game2_reply_positions_swapped"]])
    answers = tuple(ORACLE[name]["choices"][0]["turns"] for name in ("answer_1", "answer_2"))
    (made,) = judge.match(("x", "y"), question, answers, lambda *_: next(replies), "en")
    assert (made.g1_winner, made.g2_winner) == (case["g1_winner"], case["g2_winner"])


@pytest.mark.parametrize("name", ORACLE.get("rendered", {}))
def test_slots_are_filled(name: str) -> None:
    template, rendered = ORACLE["prompt_templates"][name], ORACLE["rendered"][name]
    turns = {key: ORACLE[key]["choices"][0]["turns"] for key in ("answer_1", "answer_2", "reference")}
    values = {
        "question": ORACLE["question"]["turns"][0],
        "answer": turns["answer_1"][0],
        "answer_a": turns["answer_1"][0],
        "answer_b": turns["answer_2"][0],
    }
    for i in range(2):
        values[f"question_{i + 1}"] = ORACLE["question"]["turns"][i]
        values[f"answer_{i + 1}"] = turns["answer_1"][i]
        values[f"ref_answer_{i + 1}"] = turns["reference"][i]
    assert judge.fill(template["prompt_template"], values) == rendered["user_prompt"]


def test_settings() -> None:
    assert ORACLE["temperatures"] == judge.TEMPERATURES
    assert set(ORACLE["need_reference"]) == set(judge.NEEDS_REFERENCE)
    assert ORACLE["tie_delta"] == judge.TIE_DELTA


def test_tables_of_ratings() -> None:
    grades = [judge.Grade(r["model"], "q", "c", r["turn"], r["score"], "") for r in ORACLE["single_rows"]]
    tables = ORACLE["single_tables"]
    for name, turn in (("first_turn", 1), ("second_turn", 2), ("average", None)):
        rows = judge.score_table(grades, turn)
        assert [model for model, _ in rows] == [row["model"] for row in tables[name]]
        assert [score for _, score in rows] == pytest.approx([row["score"] for row in tables[name]], abs=1e-9)


@pytest.mark.parametrize("name", [key for key in ORACLE if key.startswith("pairwise_") and key.endswith("_table")])
def test_tables_of_wins(name: str) -> None:
    matches = [
        judge.Match(r["model_1"], r["model_2"], "q", "c", 1, r["g1_winner"], r["g2_winner"])
        for r in ORACLE["pairwise_rows"]
    ]
    expected = ORACLE[name]
    missing = {m.model_1 for m in matches} | {m.model_2 for m in matches}
    missing -= {row["model"] for row in expected}
    rows = {row.model: row for row in judge.win_table(matches, missing.pop() if missing else None)}
    assert set(rows) == {row["model"] for row in expected}
    for row in expected:
        found = rows[row["model"]]
        assert {key: getattr(found, key) for key in row} == pytest.approx(row, abs=1e-9)
