"""Recipes of every floor: `kind: <package>.<objective>` decides the schema and what runs it."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.floors.table import FLOORS, load_part
from ninestory.training.recipe_file import Recipe, read_recipe_file, recipe_from_table, set_values, with_values

DEFAULT_KIND = "finetuning.sft"


def find_kind(kind: str) -> Recipe:
    """Find what runs recipes of a kind.

    Raises:
        InvalidRequest: no floor has it.
    """
    kinds = recipe_kinds()
    if kind in kinds:
        return kinds[kind]
    near = difflib.get_close_matches(str(kind), kinds, n=1)
    raise InvalidRequest(
        f"kind is {kind!r}; expected one of {', '.join(kinds)}.",
        hint=f"Did you mean {near[0]!r}?" if near else f"Set kind to {DEFAULT_KIND} for instructions and answers.",
        hint_zh=f"是否想写 {near[0]!r}？" if near else f"指令数据请将 kind 设为 {DEFAULT_KIND}。",
        param="kind",
    )


@lru_cache(maxsize=1)
def recipe_kinds() -> dict[str, Recipe]:
    """Every kind of recipe."""
    kinds: dict[str, Recipe] = {}
    for floor in FLOORS.values():
        if floor.recipes:
            recipes: dict[str, Recipe] = load_part(floor.recipes)
            kinds |= {f"{floor.name}.{objective}": recipe for objective, recipe in recipes.items()}
    return kinds


def recipe_from_dict(table: Any, where: str = "the recipe") -> Any:
    """Build the recipe of its kind's schema from plain data.

    Raises:
        InvalidRequest: an unknown kind or key (with the nearest), a renamed key, or a value of another type.
    """
    kind = table.get("kind", DEFAULT_KIND) if isinstance(table, dict) else DEFAULT_KIND
    return recipe_from_table(find_kind(kind).schema, table, where)


def load_recipe(path: Path) -> Any:
    """Read a YAML recipe.

    Raises:
        NotFound: no such file. InvalidRequest: it is not YAML, or not a recipe.
    """
    return recipe_from_dict(read_recipe_file(path), path.name)


def change_recipe(recipe: Any, changes: dict[str, Any]) -> Any:
    """Return a recipe with dotted keys replaced: {"train.learning_rate": 1e-4}; `kind` may change the schema.

    Raises:
        InvalidRequest: as `recipe_from_dict`.
    """
    table = {"kind": recipe.kind, **set_values(recipe)}
    return recipe_from_dict(with_values(table, changes))


@lru_cache(maxsize=1)
def ready_recipes() -> dict[str, Any]:
    """The recipes that come with the program, by name."""
    folders = [Path(__file__).parent / floor.name / floor.ready_recipes for floor in FLOORS.values() if floor.recipes]
    return {path.stem: load_recipe(path) for folder in folders for path in sorted(folder.glob("*.yaml"))}
