"""Rows of fine-tuning jobs as OpenAI shows them, those of an older release's keys too."""

from __future__ import annotations

from typing import Any

import pytest

from ninestory.jobs.store import Job
from ninestory.serving.floors.finetuning.fine_tuning import job_object


def job(recipe: dict[str, Any]) -> Job:
    nothing = {name: None for name in ("total", "checkpoint", "result", "error", "started_at", "finished_at")}
    numbers = {"done": 0.0, "attempts": 1, "created_at": 1.0, "updated_at": 1.0, "cancel_requested": False}
    row: dict[str, Any] = {"id": "job_1", "kind": "tune", "state": "failed", "message": "", **nothing, **numbers}
    return Job(**row, params={"recipe": recipe})


@pytest.mark.parametrize(
    ("kind", "train", "expected"),
    [
        ({"kind": "finetuning.sft"}, {"batch_size": 4}, "supervised"),
        ({"kind": "finetuning.dpo"}, {"batch_size": 4, "beta": 0.2}, "dpo"),
        ({}, {"batch": 4}, "supervised"),
        ({}, {"batch": 4, "objective": "sft", "beta": 0.1}, "supervised"),
        ({}, {"batch": 4, "objective": "dpo", "beta": 0.2}, "dpo"),
    ],
)
def test_the_method_is_shown_whatever_release_has_queued_the_job(
    kind: dict[str, Any], train: dict[str, Any], expected: str
) -> None:
    shared = {"learning_rate": 4e-4, "epochs": 2.0, "seed": 3}
    shown = job_object(job({**kind, "model": {"name": "./m"}, "train": {**shared, **train}}), [])
    assert shown["method"]["type"] == expected and shown["hyperparameters"]["batch_size"] == 4
    if expected == "dpo":
        assert shown["method"]["dpo"]["hyperparameters"]["beta"] == 0.2
