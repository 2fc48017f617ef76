"""The kinds of recipe of this floor: supervised fine-tuning and preferences, both run by `tuning`."""

from __future__ import annotations

from ninestory.core.paths import Home
from ninestory.core.progress import Progress
from ninestory.floors.finetuning.inspection import Inspection, inspect_run
from ninestory.floors.finetuning.preparation import prepare_run
from ninestory.floors.finetuning.recipe import FineTuningRecipe, PreferenceRecipe
from ninestory.floors.finetuning.tuning import run
from ninestory.training.plan import TuningPlan
from ninestory.training.recipe_file import Recipe


def inspect(
    recipe: FineTuningRecipe, home: Home, progress: Progress, *, samples: int = 3, suffix: str = ""
) -> Inspection:
    """Look at what a run would learn from; nothing is trained."""
    return inspect_run(prepare_run(recipe, home, progress, suffix=suffix), samples)


def plan(recipe: FineTuningRecipe, home: Home, progress: Progress, *, suffix: str = "") -> TuningPlan | None:
    """Predict a run's memory from its rows; None where the model states no shape."""
    return prepare_run(recipe, home, progress, suffix=suffix).plan


RECIPES = {
    "sft": Recipe(FineTuningRecipe, run, inspect, plan),
    "dpo": Recipe(PreferenceRecipe, run, inspect, plan),
}
