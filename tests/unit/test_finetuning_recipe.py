"""Recipes: every field documented, unknown keys and wrong values refused, the ready ones sound."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import yaml

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.floors.finetuning.forms import FORMS
from ninestory.floors.finetuning.preferences import PREFERENCE_FORMS
from ninestory.floors.finetuning.recipe import Recipe, as_yaml, from_dict, load, ready
from ninestory.models.reference import parse_reference
from ninestory.models.templates import find_template


def test_a_written_recipe_is_commented_and_reads_back_the_same(tmp_path: Path) -> None:
    recipe = from_dict({"name": "x", "train": {"learning_rate": 1e-4}, "data": {"train": ["a.jsonl"]}})
    text = as_yaml(recipe)
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "x.yaml") == recipe
    for part in ("model", "data", "method", "train", "evaluate"):
        for field in dataclasses.fields(getattr(recipe, part)):
            lines = text.splitlines()
            at = next(i for i, line in enumerate(lines) if line.startswith(f"  {field.name}: "))
            assert lines[at - 1].strip().startswith("# ") and len(lines[at - 1].strip()) > 4, field.name


@pytest.mark.parametrize(
    ("table", "where", "hint"),
    [
        ({"trian": {}}, "trian", "train"),
        ({"train": {"learning_rat": 1}}, "train.learning_rat", "learning_rate"),
        ({"method": {"name": "lorra"}}, "method.name", ""),
        ({"train": {"batch": "many"}}, "train.batch", ""),
        ({"train": {"batch": True}}, "train.batch", ""),
        ({"train": {"batch": -1}}, "train.batch", ""),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate", ""),
        ({"train": {"gradient_checkpointing": 1}}, "train.gradient_checkpointing", ""),
        ({"data": {"train": [1]}}, "data.train", ""),
        ({"data": []}, "data", ""),
        ({"name": "../x"}, "name", ""),
        ([], "recipe", ""),
    ],
)
def test_a_wrong_key_or_value_is_named(table: object, where: str, hint: str) -> None:
    if table == {"data": []}:
        table = {"data": ["x"]}
    with pytest.raises(InvalidRequest) as raised:
        from_dict(table)
    assert raised.value.param == where and hint in raised.value.hint and raised.value.hint_zh


def test_numbers_as_yaml_reads_them() -> None:
    assert from_dict(yaml.safe_load("train: {learning_rate: 1e-4, epochs: 2}")).train.learning_rate == 1e-4
    assert from_dict({"data": {"train": "a.jsonl"}}).data.train == ["a.jsonl"]
    assert from_dict({"method": {"targets": ["q_proj"]}}).method.targets == ["q_proj"]


def test_changes_by_dotted_key() -> None:
    recipe = Recipe().with_changes({"train.batch": 3, "name": "y", "model.name": "./m"})
    assert (recipe.train.batch, recipe.name, recipe.model.name) == (3, "y", "./m")
    with pytest.raises(InvalidRequest, match="unknown key"):
        Recipe().with_changes({"train.batches": 3})
    with pytest.raises(InvalidRequest, match="unknown key"):
        Recipe().with_changes({"trian.batch": 3})


def test_the_ready_recipes_name_models_formats_and_forms_that_exist() -> None:
    recipes = ready()
    for wanted in ("chatglm-6b-p-tuning", "alpaca-sft", "vicuna-sft", "moss-sft", "guanaco-qlora", "bloom-7b1-qlora"):
        assert wanted in recipes
    for name, recipe in recipes.items():
        parse_reference(recipe.model.name)
        assert recipe.about, name
        assert recipe.data.form in ("", *(PREFERENCE_FORMS if recipe.train.objective == "dpo" else FORMS)), name
        if recipe.model.template:
            find_template(recipe.model.template)


def test_no_yaml_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(InvalidRequest, match="not YAML"):
        load(tmp_path / "x.yaml")
    with pytest.raises(NotFound):
        load(tmp_path / "y.yaml")


def test_reading_a_recipe_loads_no_torch() -> None:
    import subprocess

    code = "import sys; from ninestory.floors.finetuning.recipe import ready; ready(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
