"""The floors by name. Strings only: reading the table loads no floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Floor:
    """What a floor contributes.

    Attributes:
        name: of its package below `ninestory.floors`.
        job_lanes: its kinds of job, each with the lane it runs in (serving/job_process.py).
        job_handlers: "module:name" of its `JOB_HANDLERS`, by kind; "" when it has no kind of job.
        recipes: "module:name" of its `RECIPES`, by objective; "" when nothing of it is trained.
        ready_recipes: folder of recipe files in its package.
    """

    name: str
    job_lanes: Mapping[str, str] = field(default_factory=dict)
    job_handlers: str = ""
    recipes: str = ""
    ready_recipes: str = ""


FLOORS: dict[str, Floor] = {
    floor.name: floor
    for floor in (
        Floor(
            "retrieval",
            job_lanes={"ingest": "short"},
            job_handlers="ninestory.floors.retrieval.jobs:JOB_HANDLERS",
        ),
        Floor("finetuning", recipes="ninestory.floors.finetuning.recipes:RECIPES", ready_recipes="ready_recipes"),
    )
}
