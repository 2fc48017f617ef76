"""Runs of a home: finished ones have an alias, the others can be resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ninestory.core.errors import NotFound
from ninestory.core.paths import Home, inside
from ninestory.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunSummary:
    """One run. `alias`: reference of the tuned model; empty until it is finished."""

    name: str
    model: str
    method: str
    step: int
    loss: float | None
    alias: str


def list_runs(home: Home) -> list[RunSummary]:
    """All runs, by name."""
    return [_summary(RunFolder(file.parent)) for file in sorted(home.runs.glob("*/recipe.json"))]


def find_run(home: Home, name: str) -> RunFolder:
    """Find a run by name.

    Raises:
        NotFound: no such run.
    """
    folder = RunFolder(inside(home.runs, name))
    if (folder.path / "recipe.json").is_file():
        return folder
    raise NotFound(
        f"There is no run {name[:80]!r}.",
        hint="'ninestory tune ls' lists them.",
        hint_zh="运行 ninestory tune ls 查看全部。",
        param="name",
    )


def _summary(folder: RunFolder) -> RunSummary:
    recipe = folder.recipe()
    last = None
    for line in folder.lines("step"):
        last = line
    note = folder.path / "ninestory.json"
    alias = json.loads(note.read_text(encoding="utf-8"))["alias"] if note.is_file() else ""
    model, method = recipe["model"]["name"], recipe["method"]["name"]
    return RunSummary(
        folder.path.name, model, method, last["step"] if last else 0, last["loss"] if last else None, alias
    )
