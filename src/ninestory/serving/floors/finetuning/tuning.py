"""`/ninestory/v1/tuning`: what OpenAI's fine-tuning has no form for: a look at the data, the runs and their reports."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from ninestory.core.errors import NotFound
from ninestory.serving.context import GatewayContext
from ninestory.serving.floors.finetuning.fine_tuning import tuning_params
from ninestory.serving.floors.finetuning.fine_tuning_schemas import FineTuningRequest
from ninestory.serving.routes.jobs import job_object
from ninestory.serving.stores.files import FileStore


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/tuning", tags=["tuning"])
    files = FileStore(context.state, context.home.files)

    @routes.post("/inspect")
    async def inspect(body: FineTuningRequest) -> dict[str, Any]:
        """What a fine-tuning job would learn from, as a job: its result has rendered rows, lengths, steps and memory."""
        params = await run_in_threadpool(tuning_params, body, context, files)
        params["recipe"]["data"]["on_invalid_row"] = "skip"  # they are counted and named, not refused
        return job_object(context.jobs.create("inspect", params))

    @routes.get("/methods")
    async def methods() -> dict[str, Any]:
        """The tuning methods: name, whether it has a rank, trains virtual tokens, packs rows, quantises the base, …"""
        from ninestory.training.method_spec import METHODS

        return {"object": "list", "data": [spec.as_dict() for spec in METHODS.values()]}

    @routes.get("/runs")
    async def runs() -> dict[str, Any]:
        """The runs of this home; finished ones say how the tuned model is asked for."""
        from ninestory.floors.finetuning import list_runs

        found = await run_in_threadpool(list_runs, context.home)
        return {"object": "list", "data": [dataclasses.asdict(run) for run in found]}

    @routes.get("/runs/{name}/report")
    async def report(name: str) -> dict[str, Any]:
        """The report of a finished run, base against tuned, as Markdown."""
        from ninestory.floors.finetuning import find_run

        file = find_run(context.home, name).path / "report.md"
        if not file.is_file():
            raise NotFound(
                f"The run {name[:80]!r} has no report yet.",
                hint="It is written when the run has ended.",
                hint_zh="训练结束后才会生成报告。",
                code="no_report",
            )
        return {"name": name, "markdown": await run_in_threadpool(file.read_text, "utf-8")}

    return routes
