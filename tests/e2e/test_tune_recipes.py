"""Ready recipes on small checkpoints of their family, from rows of their form to an answer: those that no guide runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.finetuning.tuning import run
from ninestory.floors.recipes import change_recipe, ready_recipes
from ninestory.library import load
from tests.tiny_checkpoints import FAMILIES

pytestmark = [pytest.mark.slow, pytest.mark.torch]

TALK = [("human", "Say {}."), ("gpt", "It is {}."), ("human", "Again?"), ("gpt", "{}.")]
ROWS: dict[str, list[dict[str, Any]]] = {
    "instructions": [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(8)],
    "conversations": [
        {"conversations": [{"from": who, "value": text.format(n)} for who, text in TALK]} for n in range(8)
    ],
}
QUICK = {
    "train.max_steps": 2,
    "train.batch_size": 2,
    "evaluate.eval_samples": 1,
    "evaluate.max_tokens": 2,
    "data.max_length": 256,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for family in ("bloom", "llama"):
        FAMILIES[family](folder / family)
    return folder


@pytest.mark.parametrize(
    ("recipe", "family", "rows"),
    [
        ("belle-full", "bloom", "instructions"),
        ("bloom-7b1-qlora", "bloom", "instructions"),
        ("cornucopia-lora", "llama", "instructions"),
        ("vicuna-sft", "llama", "conversations"),
    ],
)
def test_a_ready_recipe_runs_from_rows_to_an_answer(
    recipe: str, family: str, rows: str, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NINESTORY_HOME", str(tmp_path))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS[rows])), encoding="utf-8")
    changes = {**QUICK, "name": "r", "model.name": str(bases / family), "data.train": [str(file)]}
    outcome = run(change_recipe(ready_recipes()[recipe], changes), Home(tmp_path).ensure(), Silent())
    assert outcome.steps == 2 and math.isfinite(outcome.comparison.tuned.loss)
    with load(outcome.reference, context=256, threads=1) as model:
        assert model.info.template == ready_recipes()[recipe].model.template
        made = model.chat if model.info.template else model.complete
        assert made("Say 3.", temperature=0, max_tokens=2).usage.completion_tokens > 0
