"""`/ninestory/v1/jobs`: long work, wherever it was asked for."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Query

from ninestory.jobs.store import Job, JobState
from ninestory.serving.context import GatewayContext

MAX_SEQ = 2**53


def job_object(job: Job) -> dict[str, Any]:
    """A job as docs/api.md shows it."""
    fields = dataclasses.asdict(job)
    fields.pop("checkpoint")
    return {"object": "job", **fields, "resumable": job.resumable}


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/jobs", tags=["jobs"])
    jobs = context.jobs

    @routes.get("")
    async def list_jobs(
        state: JobState | None = None,
        kind: Annotated[str | None, Query(max_length=40)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        after: Annotated[str | None, Query(max_length=100)] = None,
    ) -> dict[str, Any]:
        """Newest first."""
        found = jobs.list(state=state, kind=kind, after=after, limit=limit + 1)
        return {"object": "list", "data": [job_object(j) for j in found[:limit]], "has_more": len(found) > limit}

    @routes.get("/{job_id}")
    async def retrieve(job_id: str) -> dict[str, Any]:
        """One job."""
        return job_object(jobs.get(job_id))

    @routes.get("/{job_id}/events")
    async def events(
        job_id: str,
        after_seq: Annotated[int, Query(ge=0, le=MAX_SEQ)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> dict[str, Any]:
        """The job's log, in order."""
        jobs.get(job_id)
        found = jobs.events(job_id, after_seq=after_seq, limit=limit + 1)
        lines = [dataclasses.asdict(line) for line in found[:limit]]
        return {"object": "list", "data": lines, "has_more": len(found) > limit}

    @routes.post("/{job_id}/cancel")
    async def cancel(job_id: str) -> dict[str, Any]:
        """Cancel a job and its children: a running one stops within a beat, others at once."""
        return job_object(jobs.cancel(job_id))

    @routes.post("/{job_id}/resume")
    async def resume(job_id: str) -> dict[str, Any]:
        """Queue a failed or cancelled job again; it goes on from its last checkpoint."""
        return job_object(jobs.resume(job_id))

    @routes.delete("/{job_id}")
    async def delete(job_id: str) -> dict[str, Any]:
        """Dismiss a job that is over, with its log and its children."""
        jobs.remove(job_id)
        return {"id": job_id, "object": "job.deleted", "deleted": True}

    return routes
