"""Arena ratings against those of the original code (tests/fixtures/prompts/arena_ratings.json)."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from ninestory.evaluation import arena
from ninestory.evaluation.battle import Battle

from .conftest import FIXTURES

_PATH = FIXTURES / "prompts" / "arena_ratings.json"
ORACLE: dict[str, Any] = json.loads(_PATH.read_text(encoding="utf-8")) if _PATH.exists() else {}
pytestmark = pytest.mark.skipif(not ORACLE, reason="this set of fixtures has no votes")


def styles(row: dict[str, Any], side: str) -> tuple[int, ...]:
    counts = row["conv_metadata"]
    lists = [counts[f"{name}_count_{side}"] for name in ("header", "list", "bold")]
    return (counts[f"sum_assistant_{side}_tokens"], *(sum(c.values()) for c in lists))


def battles(*, ties: bool = True) -> list[Battle]:
    rows = [
        Battle(
            row["model_a"],
            row["model_b"],
            "both_bad" if "bothbad" in row["winner"] else row["winner"],
            styles(row, "a"),
            styles(row, "b"),
        )
        for row in ORACLE["battles"]
    ]
    return [row for row in rows if ties or row.winner.startswith("model")]


def anchor() -> tuple[str, float]:
    return ORACLE["constants"]["anchor_model"], ORACLE["constants"]["anchor_rating"]


def near(actual: dict[str, arena.Interval], expected: dict[str, dict[str, float]], tolerance: float) -> None:
    assert set(actual) == set(expected)
    for model, quantiles in expected.items():
        found = actual[model]
        assert [found.low, found.median, found.high] == pytest.approx(list(quantiles.values()), abs=tolerance)


def test_constants() -> None:
    constants = ORACLE["constants"]
    assert [constants[name] for name in ("K", "scale", "base", "init_rating")] == [
        arena.K,
        arena.SCALE,
        arena.BASE,
        arena.START,
    ]


@pytest.mark.parametrize(("name", "ties"), [("online_elo", True), ("online_elo_no_ties", False)])
def test_elo(name: str, ties: bool) -> None:
    assert arena.online_elo(battles(ties=ties)) == pytest.approx(ORACLE[name], abs=1e-6)


@pytest.mark.parametrize(("name", "ties"), [("bradley_terry", True), ("bradley_terry_no_ties", False)])
def test_bradley_terry(name: str, ties: bool) -> None:
    ratings = arena.bradley_terry(battles(ties=ties), anchor=anchor())
    assert ratings == pytest.approx(ORACLE[name], abs=0.05)
    assert list(ratings.values()) == sorted(ratings.values(), reverse=True)


@pytest.mark.parametrize("name", [key for key in ORACLE if key.startswith("bootstrap_bt_") and "rounds" in key])
def test_bootstrap_of_bradley_terry(name: str) -> None:
    rounds, seed = map(int, re.findall(r"\d+", name))
    generator = np.random.default_rng(seed)
    found = arena.bootstrap_bradley_terry(battles(), rounds, generator=generator, anchor=anchor())
    near(found, ORACLE[name], 0.5)
    medians = {model: round(interval.median) for model, interval in found.items()}
    assert medians == pytest.approx(ORACLE["bootstrap_bt_integer_median"], abs=1)


@pytest.mark.parametrize("name", [key for key in ORACLE if key.startswith("bootstrap_elo_")])
def test_bootstrap_of_elo(name: str) -> None:
    rounds, seed = map(int, re.findall(r"\d+", name))
    votes = battles()
    draws = np.random.RandomState(seed).randint(0, len(votes), size=(len(votes), rounds))
    near(arena.bootstrap_elo(votes, draws), ORACLE[name], 1e-6)


def test_style_control() -> None:
    ratings, coefficients = arena.style_controlled(battles(), anchor=anchor())
    assert ratings == pytest.approx(ORACLE["style_controlled_bt"], abs=0.5)
    expected = next(value for key, value in ORACLE.items() if key.startswith("style_coefficients"))
    assert coefficients == pytest.approx(expected, abs=1e-3)


def test_win_fractions() -> None:
    expected = ORACLE["pairwise_win_fraction_ties_in_denominator"]
    found = arena.win_fractions(battles())
    assert set(found) == set(expected)
    for model, row in expected.items():
        for other, value in row.items():
            assert found[model][other] == (None if value is None else pytest.approx(value, abs=1e-9))
