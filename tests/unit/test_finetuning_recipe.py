"""Recipes: every field documented, unknown keys and wrong values refused, the ready ones sound."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.floors import finetuning
from ninestory.floors.finetuning.formats import FORMATS
from ninestory.floors.finetuning.preferences import PREFERENCE_FORMATS
from ninestory.floors.finetuning.recipe import FineTuningRecipe, PreferenceRecipe
from ninestory.floors.recipes import change_recipe, load_recipe, ready_recipes, recipe_from_dict
from ninestory.models.reference import parse_reference
from ninestory.models.templates import find_template
from ninestory.training.recipe_file import as_yaml, parse_yaml


def test_a_written_recipe_is_commented_and_reads_back_the_same(tmp_path: Path) -> None:
    recipe = recipe_from_dict({"name": "x", "train": {"learning_rate": 1e-4}, "data": {"train": ["a.jsonl"]}})
    text = as_yaml(recipe)
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(tmp_path / "x.yaml") == recipe
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
        ({"method": {"target_modules": 3}}, "method.target_modules", ""),
        ({"kind": "finetuning.sf"}, "kind", "finetuning.sft"),
        ({"train": {"beta": 0.2}}, "train.beta", ""),  # of preferences only
        ({"train": {"batch_size": "many"}}, "train.batch_size", ""),
        ({"train": {"batch_size": True}}, "train.batch_size", ""),
        ({"train": {"batch_size": -1}}, "train.batch_size", ""),
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
        recipe_from_dict(table)
    assert raised.value.param == where and hint in raised.value.hint and raised.value.hint_zh


def test_numbers_as_yaml_reads_them() -> None:
    assert recipe_from_dict(parse_yaml("train: {learning_rate: 1e-4, epochs: 2}")).train.learning_rate == 1e-4
    assert recipe_from_dict({"data": {"train": "a.jsonl"}}).data.train == ["a.jsonl"]
    assert recipe_from_dict({"method": {"target_modules": ["q_proj"]}}).method.target_modules == ["q_proj"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train.batch", "train.batch_size"),
        ("train.warmup", "train.warmup_ratio"),
        ("train.schedule", "train.lr_scheduler"),
        ("train.objective", "kind"),
        ("method.targets", "method.target_modules"),
        ("method.blocks", "method.trainable_layers"),
        ("data.form", "data.format"),
        ("data.bad_rows", "data.on_invalid_row"),
        ("evaluate.answers", "evaluate.eval_samples"),
        ("evaluate.general", "evaluate.forgetting_text"),
    ],
)
@pytest.mark.parametrize("kind", ["finetuning.sft", "finetuning.dpo"])
def test_an_old_key_is_refused_with_its_new_name(old: str, new: str, kind: str) -> None:
    part, _, name = old.partition(".")
    with pytest.raises(InvalidRequest) as raised:
        recipe_from_dict({"kind": kind, part: {name: 1}})
    assert (raised.value.param, raised.value.code) == (old, "renamed_key")
    assert raised.value.hint == f"Rename {old} to {new}." and new in raised.value.hint_zh


def test_the_kind_decides_the_schema() -> None:
    assert type(recipe_from_dict({})) is FineTuningRecipe
    preferences = recipe_from_dict({"kind": "finetuning.dpo", "train": {"beta": 0.3}})
    assert type(preferences) is PreferenceRecipe and preferences.train.beta == 0.3 and preferences.objective == "dpo"
    learned = change_recipe(FineTuningRecipe(name="x"), {"kind": "finetuning.dpo", "train.beta": 0.2})
    assert type(learned) is PreferenceRecipe and (learned.name, learned.train.beta) == ("x", 0.2)
    assert type(change_recipe(ready_recipes()["starter-dpo"], {"kind": "finetuning.sft"})) is FineTuningRecipe


@pytest.mark.parametrize("name", ["guanaco-qlora", "bloom-7b1-qlora"])
def test_the_paged_optimizer_is_set_where_a_card_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = next((Path(finetuning.__file__).parent / "ready_recipes").glob(f"{name}.yaml"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load_recipe(file).train.optimizer == "adamw"
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Card, 24576, 24000'\n")
    tool.chmod(0o755)
    recipe = load_recipe(file)
    assert recipe.train.optimizer == "paged_adamw_32bit" and recipe.train.lr_scheduler == "constant"


def test_changes_by_dotted_key() -> None:
    recipe = change_recipe(FineTuningRecipe(), {"train.batch_size": 3, "name": "y", "model.name": "./m"})
    assert (recipe.train.batch_size, recipe.name, recipe.model.name) == (3, "y", "./m")
    with pytest.raises(InvalidRequest, match="unknown key"):
        change_recipe(FineTuningRecipe(), {"train.batches": 3})
    with pytest.raises(InvalidRequest, match="unknown key"):
        change_recipe(FineTuningRecipe(), {"trian.batch": 3})
    with pytest.raises(InvalidRequest, match=r"unknown key 'name\.x'"):
        change_recipe(FineTuningRecipe(name="y"), {"name.x": 3})


def test_the_ready_recipes_name_models_formats_and_forms_that_exist() -> None:
    recipes = ready_recipes()
    for wanted in ("chatglm-6b-p-tuning", "alpaca-sft", "vicuna-sft", "moss-sft", "guanaco-qlora", "bloom-7b1-qlora"):
        assert wanted in recipes
    for name, recipe in recipes.items():
        parse_reference(recipe.model.name)
        assert recipe.about, name
        assert recipe.data.format in ("", *(PREFERENCE_FORMATS if recipe.objective == "dpo" else FORMATS)), name
        if recipe.model.template:
            find_template(recipe.model.template)


def test_no_yaml_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(InvalidRequest, match="not YAML"):
        load_recipe(tmp_path / "x.yaml")
    with pytest.raises(NotFound):
        load_recipe(tmp_path / "y.yaml")


def test_reading_a_recipe_loads_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from ninestory.floors.recipes import ready_recipes; ready_recipes(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
