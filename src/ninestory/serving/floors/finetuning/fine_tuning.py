"""`/v1/fine_tuning/jobs` as OpenAI has it; a job is a row of `jobs/`, run by the job process.

`method.type` is "supervised" or "dpo"; everything else that a recipe knows stands in the extension object `ninestory`:
{"method": {"name": "qlora"}, "train": {"max_steps": 100}, …}, without paths: data come by /v1/files.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.jobs.store import Job, JobEvent
from ninestory.models.resolve import resolve
from ninestory.serving.context import GatewayContext
from ninestory.serving.floors.finetuning.fine_tuning_schemas import DEFAULT_RATE, FineTuningRequest
from ninestory.serving.references import requested
from ninestory.serving.stores.files import FileStore

_KINDS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt")
_PATHS = {"data": ("train", "held_out"), "evaluate": ("forgetting_text",)}
_RECENT = 20  # steps whose pace says when a job will end
_EVENTS = 100_000  # of one job's log: more than a run of days writes


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])
    jobs = context.jobs
    files = FileStore(context.state, context.home.files)

    @routes.post("")
    async def create(body: FineTuningRequest) -> dict[str, Any]:
        """Start a fine-tuning job on uploaded data."""
        params = await run_in_threadpool(tuning_params, body, context, files)
        return shown(jobs.create("tune", params))

    @routes.get("")
    async def list_jobs(
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        """The fine-tuning jobs, newest first."""
        found = jobs.list(kind="tune", after=_row_id(after) if after else None, limit=limit + 1)
        return {"object": "list", "data": [shown(job) for job in found[:limit]], "has_more": len(found) > limit}

    @routes.get("/{job_id}")
    async def retrieve(job_id: str) -> dict[str, Any]:
        """One job."""
        return shown(_get(job_id))

    @routes.post("/{job_id}/cancel")
    async def cancel(job_id: str) -> dict[str, Any]:
        """Stop a job: a waiting one at once, a running one after its step; its checkpoint is kept."""
        return shown(jobs.cancel(_get(job_id).id))

    @routes.post("/{job_id}/resume")
    async def resume(job_id: str) -> dict[str, Any]:
        """Go on with a failed or cancelled job from its last checkpoint."""
        return shown(jobs.resume(_get(job_id).id))

    @routes.get("/{job_id}/events")
    async def events(
        job_id: str,
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    ) -> dict[str, Any]:
        """What the job reported, newest first."""
        lines = jobs.events(_get(job_id).id, limit=_EVENTS)
        return _page([_event(line) for line in reversed(lines)], after, limit)

    @routes.get("/{job_id}/checkpoints")
    async def checkpoints(
        job_id: str,
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> dict[str, Any]:
        """The checkpoints that the job has written, newest first; the newest are still on the disk."""
        job = _get(job_id)
        return _page(list(reversed(_checkpoints(job, jobs.events(job.id, limit=_EVENTS)))), after, limit)

    def shown(job: Job) -> dict[str, Any]:
        return job_object(job, jobs.newest_events(job.id, "step", _RECENT))

    def _get(job_id: str) -> Job:
        job = jobs.get(_row_id(job_id))
        if job.kind != "tune":
            raise NotFound(f"{job_id[:80]!r} is no fine-tuning job.", code="job_not_found")
        return job

    return routes


def job_object(job: Job, steps: Sequence[JobEvent]) -> dict[str, Any]:
    """A job as OpenAI shows it; what came out of it stands in `ninestory`.

    Args:
        steps: its last steps, newest first. The row's own `done` counts bytes while a model is read.
    """
    recipe, result = job.params["recipe"], job.result or {}
    asked = job.params.get("asked", {})
    error = job.error or {}
    return {
        "id": _public_id(job.id),
        "object": "fine_tuning.job",
        "created_at": int(job.created_at),
        "finished_at": None if job.finished_at is None else int(job.finished_at),
        "estimated_finish": _estimated_finish(job, steps),
        "model": recipe["model"]["name"],
        "fine_tuned_model": result.get("reference"),
        "status": job.state,
        "error": {k: error.get(k) for k in ("code", "message", "param", "hint", "hint_zh")} if error else None,
        "training_file": asked.get("training_file", ""),
        "validation_file": asked.get("validation_file"),
        "hyperparameters": _hyperparameters(recipe),
        "method": _method(recipe),
        "seed": recipe["train"]["seed"],
        "trained_tokens": result.get("trained_tokens"),
        "organization_id": "ninestory",
        "result_files": [],
        "integrations": [],
        "metadata": asked.get("metadata"),
        "ninestory": {
            "recipe": recipe,
            "steps_done": steps[0].data["step"] if steps else 0,
            "steps": steps[0].data["total"] if steps else None,
            "result": job.result,
        },
    }


def tuning_params(body: FineTuningRequest, context: GatewayContext, files: FileStore) -> dict[str, Any]:
    """The job's parameters: a recipe that has been checked, with the files' places put in."""
    from ninestory.floors.recipes import recipe_from_dict

    resolve(requested(body.model, context.home, context.settings.serve.preload), context.home)
    kind = _kind(files, body.training_file, "training_file")
    table = body.recipe_table(_name(body))
    _refuse_paths(body.ninestory)
    table["data"]["train"] = [str(files.path(body.training_file))]
    if body.validation_file:
        if _kind(files, body.validation_file, "validation_file") != kind:
            raise InvalidRequest(
                "training_file and validation_file are of different kinds.",
                hint="Send both as JSON lines.",
                hint_zh="请将两者都以 JSONL 上传。",
                param="validation_file",
            )
        table["data"]["held_out"] = [str(files.path(body.validation_file))]
    asked = {"training_file": body.training_file, "validation_file": body.validation_file, "metadata": body.metadata}
    recipe = recipe_from_dict(table, "ninestory")
    return {"recipe": dataclasses.asdict(recipe), "force": body.force, "suffix": kind, "asked": asked}


def _kind(files: FileStore, file_id: str, param: str) -> str:
    """The suffix of an uploaded file. Raises NotFound, InvalidRequest: of another purpose, or no data file."""
    found = files.get(file_id)
    suffix = PurePath(found["filename"]).suffix.lower()
    if found["purpose"] not in ("fine-tune", "user_data"):
        raise InvalidRequest(
            f"The file {file_id} was uploaded for {found['purpose']!r}, and 'fine-tune' was due.",
            hint="Upload it again with purpose=fine-tune.",
            hint_zh="请以 purpose=fine-tune 重新上传。",
            param=param,
        )
    if suffix not in _KINDS:
        raise InvalidRequest(
            f"{found['filename']!r} is no data file: {', '.join(_KINDS)} are known.",
            hint="Upload JSON lines.",
            hint_zh="请上传 JSONL 文件。",
            param=param,
        )
    return suffix


def _refuse_paths(extension: dict[str, Any]) -> None:
    for part, names in _PATHS.items():
        given = extension.get(part)
        for name in names:
            if isinstance(given, dict) and name in given:
                raise InvalidRequest(
                    f"ninestory.{part}.{name} is a path on the server, which a request may not name.",
                    hint="Upload the data to /v1/files and give its id as training_file or validation_file.",
                    hint_zh="请将数据上传到 /v1/files，并以 training_file 或 validation_file 给出其 id。",
                    param=f"ninestory.{part}.{name}",
                )


def _name(body: FineTuningRequest) -> str:
    """The run's name, and the part behind "ft:" of the tuned model's: model, suffix, and what makes it the only one."""
    tail = re.sub(r"[^A-Za-z0-9.]+", "-", re.split(r"[:/]", body.model)[-1]).strip("-.")[:30] or "model"
    suffix = f"-{body.suffix}" if body.suffix else ""
    return f"{tail}{suffix}-{secrets.token_hex(4)}"


def _method(recipe: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's `method`; a job of an older release has an objective instead of a kind."""
    given = _hyperparameters(recipe)
    kind = recipe.get("kind") or f"finetuning.{recipe['train'].get('objective', 'sft')}"
    if kind != "finetuning.dpo":
        return {"type": "supervised", "supervised": {"hyperparameters": given}}
    return {"type": "dpo", "dpo": {"hyperparameters": {**given, "beta": recipe["train"]["beta"]}}}


def _hyperparameters(recipe: dict[str, Any]) -> dict[str, Any]:
    train = recipe["train"]
    multiplier = train["learning_rate"] / DEFAULT_RATE
    return {
        "n_epochs": max(1, round(train["epochs"])),
        "batch_size": train.get("batch_size") or train["batch"],  # as a job of an older release has it
        "learning_rate_multiplier": multiplier,
    }


def _estimated_finish(job: Job, steps: Sequence[JobEvent]) -> int | None:
    """Unix time of the last step at the pace of the newest ones; None before the second."""
    if job.state != "running" or len(steps) < 2:
        return None
    last, first = steps[0], steps[-1]
    taken = last.data["step"] - first.data["step"]
    if taken <= 0:  # between them the job was resumed from an older checkpoint
        return None
    return int(last.time + (last.time - first.time) / taken * (last.data["total"] - last.data["step"]))


def _event(line: JobEvent) -> dict[str, Any]:
    """Steps and evaluations are metrics; the rest are messages."""
    data = line.data
    is_metric = line.kind in ("step", "evaluation")
    if line.kind == "step":
        text = f"Step {data['step']}/{data['total']}: training loss={data['loss']:.4f}"
    elif line.kind == "evaluation":
        text = f"Step {data['step']}: validation loss={data['loss']:.4f}"
    else:
        text = str(data.get("message") or f"{line.kind}: " + ", ".join(f"{k} {v}" for k, v in data.items()))
    return {
        "id": f"ftevent-{line.seq}",
        "object": "fine_tuning.job.event",
        "created_at": int(line.time),
        "level": "warn" if line.kind == "warning" else "info",
        "message": text,
        "type": "metrics" if is_metric else "message",
        "data": data,
    }


def _checkpoints(job: Job, lines: Any) -> list[dict[str, Any]]:
    """By step; a checkpoint written again after a resume is the same one."""
    losses: dict[int, dict[str, float]] = {}
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line.kind in ("step", "evaluation"):
            name = "train_loss" if line.kind == "step" else "full_valid_loss"
            losses.setdefault(line.data["step"], {})[name] = line.data["loss"]
        elif line.kind == "checkpoint":
            step = line.data["step"]
            found[step] = {
                "id": f"ftckpt-{job.id.removeprefix('job_')}-{step}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": int(line.time),
                "fine_tuned_model_checkpoint": f"ft:{job.params['recipe']['name']}:step-{step}",
                "fine_tuning_job_id": _public_id(job.id),
                "step_number": step,
                "metrics": {"step": step, **losses.get(step, {})},
            }
    return list(found.values())


def _page(rows: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    start = next((i + 1 for i, row in enumerate(rows) if row["id"] == after), 0) if after else 0
    page = rows[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(rows) > start + limit,
    }


def _public_id(row_id: str) -> str:
    return f"ftjob-{row_id.removeprefix('job_')}"


def _row_id(job_id: str) -> str:
    return f"job_{job_id.removeprefix('ftjob-')}"
