"""The floors by name. Strings only: reading the table loads no floor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Floor:
    """What a floor contributes.

    Attributes:
        name: of its package below `ninestory.floors`.
        recipes: "module:name" of its `RECIPES`, by objective; "" when nothing of it is trained.
        ready_recipes: folder of recipe files in its package.
    """

    name: str
    recipes: str = ""
    ready_recipes: str = ""


FLOORS: dict[str, Floor] = {
    floor.name: floor
    for floor in (Floor("finetuning", "ninestory.floors.finetuning.recipes:RECIPES", "ready_recipes"),)
}
