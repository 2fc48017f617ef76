"""Floor 8: recipes and text data for tuning; the loop itself is in training/."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ninestory.core.lazy import lazy_names

if TYPE_CHECKING:  # what a type checker sees; `__getattr__` below gives the same names
    from ninestory.floors.finetuning.export import export_gguf, export_merged
    from ninestory.floors.finetuning.inspection import Inspection
    from ninestory.floors.finetuning.recipe import FineTuningRecipe
    from ninestory.floors.finetuning.runs import find_run, list_runs
    from ninestory.floors.finetuning.self_instruct import SelfInstructSettings, read_seeds
    from ninestory.floors.finetuning.self_instruct import run as run_self_instruct
    from ninestory.floors.finetuning.self_instruct import writer as self_instruct_writer
    from ninestory.floors.finetuning.tuning import follow as follow_run

_HOMES = {
    **dict.fromkeys(["export_gguf", "export_merged"], "export"),
    "Inspection": "inspection",
    "FineTuningRecipe": "recipe",
    **dict.fromkeys(["find_run", "list_runs"], "runs"),
    **dict.fromkeys(["SelfInstructSettings", "read_seeds"], "self_instruct"),
    "run_self_instruct": "self_instruct:run",
    "self_instruct_writer": "self_instruct:writer",
    "follow_run": "tuning:follow",
}
__all__ = [
    "FineTuningRecipe",
    "Inspection",
    "SelfInstructSettings",
    "export_gguf",
    "export_merged",
    "find_run",
    "follow_run",
    "list_runs",
    "read_seeds",
    "run_self_instruct",
    "self_instruct_writer",
]
__getattr__ = lazy_names(__name__, _HOMES)
