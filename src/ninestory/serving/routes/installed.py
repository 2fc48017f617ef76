"""`/ninestory/v1/models` and `load`, `unload`, `ps`: files on this machine, and what of them is in memory."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from ninestory.core.errors import InvalidRequest
from ninestory.models.pull import check_pullable
from ninestory.models.resolve import resolve
from ninestory.models.store import InstalledModel, list_installed, remove
from ninestory.models.verify import verify
from ninestory.serving.context import GatewayContext
from ninestory.serving.references import ModelReference, requested_name
from ninestory.serving.routes.jobs import job_object
from ninestory.serving.schemas import Strict

_EXAMPLE = ConfigDict(json_schema_extra={"examples": [{"model": "starter:smollm2-135m-instruct"}]})
MAX_KEEP_ALIVE_SECONDS = 365 * 86400.0


class ModelName(Strict):
    model_config = _EXAMPLE

    model: ModelReference


class LoadRequest(ModelName):
    keep_alive: float | None = Field(
        default=None,
        ge=-1,
        le=MAX_KEEP_ALIVE_SECONDS,
        description="Seconds the idle model stays loaded; 0 unloads it at once, -1 never.",
    )
    template: str | None = Field(
        default=None,
        max_length=100,
        description="Prompt template to ask it in, or 'checkpoint'; else the catalogue's, then the checkpoint's own.",
    )
    dtype: Literal["", "float32", "bfloat16", "float16", "int8", "int4"] | None = Field(
        default=None, description="Type to compute in (torch); empty leaves it to the server's settings."
    )
    fast: bool | None = Field(
        default=None,
        description="torch on a processor: the fastest linears, without the promise that neighbours change no bit.",
    )


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1", tags=["models on this machine"])

    @routes.get("/models")
    async def installed() -> dict[str, Any]:
        """What can be asked for without fetching anything."""
        loaded = {row["model"] for row in context.pool.loaded()}
        models = await asyncio.to_thread(list_installed, context.home)
        rows = [installed_object(model, model.reference in loaded) for model in models]
        return {"object": "list", "data": rows, "has_more": False}

    @routes.delete("/models")
    async def delete(model: ModelReference) -> dict[str, Any]:
        """Delete a model's files; it is unloaded first."""
        reference = str(requested_name(model, context.home))
        await context.pool.unload(reference)
        removed = await asyncio.to_thread(remove, context.home, reference)
        return {"id": removed.reference, "object": "model.deleted", "deleted": True}

    @routes.post("/models/verify")
    async def verify_model(body: ModelName) -> dict[str, Any]:
        """Check every file of a model; the first fault is the error."""
        reference = str(requested_name(body.model, context.home))
        model = await asyncio.to_thread(resolve, reference, context.home)
        if model.path is None:
            raise InvalidRequest(
                f"{reference} is a remote model: it has no files here.",
                hint="Only models on this machine can be verified.",
                hint_zh="只能校验本机上的模型。",
                param="model",
            )
        report = await asyncio.to_thread(verify, model.path)
        return {
            "model": reference,
            "ok": True,
            "files": report.files,
            "tensors": report.tensors,
            "bytes": report.nbytes,
            "dtypes": report.dtypes,
            "notes": report.notes,
        }

    @routes.post("/models/pull", status_code=202)
    async def pull(body: ModelName) -> dict[str, Any]:
        """Fetch a model: a job of kind `pull`; the unfinished one when this model is already being fetched."""
        reference = str(check_pullable(requested_name(body.model, context.home)))
        for state in ("queued", "running"):
            for job in context.jobs.list(state=state, kind="pull", limit=200):
                if job.params["model"] == reference:
                    return job_object(job)
        return job_object(context.jobs.create("pull", {"model": reference}))

    @routes.get("/ps")
    async def loaded_models() -> dict[str, Any]:
        """What is in memory now."""
        return {"object": "list", "data": context.pool.loaded(), "has_more": False}

    @routes.post("/load")
    async def load(body: LoadRequest) -> dict[str, Any]:
        """Load a model and answer when it is ready."""
        given = body.model_dump(include={"template", "dtype", "fast"}, exclude_none=True)
        return await context.pool.load(str(requested_name(body.model, context.home)), body.keep_alive, given)

    @routes.post("/unload")
    async def unload(body: ModelName) -> dict[str, Any]:
        """Unload a model when its requests are done, and answer when its memory is free."""
        reference = str(requested_name(body.model, context.home))
        return {"model": reference, "unloaded": await context.pool.unload(reference)}

    return routes


def installed_object(model: InstalledModel, loaded: bool) -> dict[str, Any]:
    """An installed model as docs/api.md shows it."""
    return {
        "object": "installed_model",
        "model": model.reference,
        "source": model.source,
        "task": model.task,
        "bytes": model.nbytes,
        "licence": model.licence,
        "removable": model.removable,
        "loaded": loaded,
    }
