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
    """

    name: str
    job_lanes: Mapping[str, str] = field(default_factory=dict)
    job_handlers: str = ""


FLOORS: dict[str, Floor] = {
    floor.name: floor
    for floor in (Floor("retrieval", {"ingest": "short"}, "ninestory.floors.retrieval.jobs:JOB_HANDLERS"),)
}
