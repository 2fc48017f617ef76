"""`/ninestory/v1/events`: one stream for everything that changes, so that one connection serves all tabs.

Jobs are written by other processes, so this looks at the table twice a second while somebody listens.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header
from starlette.responses import StreamingResponse

from ninestory import __version__
from ninestory.serving.context import GatewayContext
from ninestory.serving.routes.jobs import MAX_SEQ, job_object
from ninestory.serving.streaming import event

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
# Rows are stamped before they are committed, so each look goes back a little; what was sent is not sent again.
OVERLAP_SECONDS = 3.0

_SHOWN_OF_MODELS = ("model", "state", "requests", "waiting")


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/events", tags=["events"])

    @routes.get("", response_class=StreamingResponse)
    async def events(last_event_id: Annotated[str | None, Header(max_length=20)] = None) -> StreamingResponse:
        """Jobs, their logs and the loaded models, as `text/event-stream`; names and shapes are docs/api.md's."""
        last_seq = context.jobs.last_seq()
        if last_event_id and last_event_id.isascii() and last_event_id.isdigit():
            last_seq = min(last_seq, int(last_event_id), MAX_SEQ)
        return StreamingResponse(
            EventFeed(context, last_seq).lines(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return routes


class EventFeed:
    """What one listener has been told."""

    def __init__(self, context: GatewayContext, last_seq: int) -> None:
        self._context = context
        self._last_seq = last_seq
        self._sent_jobs: dict[str, float] = {}  # id → updated_at, of rows that may be seen again
        self._sent_models: list[tuple[Any, ...]] | None = None

    async def lines(self) -> AsyncIterator[bytes]:
        yield event({"version": __version__, "started_at": self._context.started_at, "seq": self._last_seq}, "hello")
        for state in ("queued", "running", "waiting"):
            for job in self._context.jobs.list(state=state, limit=200):
                self._sent_jobs[job.id] = job.updated_at
                yield event(job_object(job), "job")
        looked_at = quiet_since = time.time()
        while not self._context.stopping:
            now = time.time()
            for line in [*self._models(), *self._jobs(looked_at - OVERLAP_SECONDS), *self._job_events()]:
                quiet_since = now
                yield line
            looked_at = now
            if now - quiet_since > KEEP_ALIVE_SECONDS:
                quiet_since = now
                yield b": still here\n\n"
            await asyncio.sleep(POLL_SECONDS)

    def _jobs(self, since: float) -> list[bytes]:
        changed = self._context.jobs.changed_since(since)
        news = [job for job in changed if self._sent_jobs.get(job.id) != job.updated_at]
        self._sent_jobs = {job.id: job.updated_at for job in changed}
        return [event(job_object(job), "job") for job in news]

    def _job_events(self) -> list[bytes]:
        lines = []
        for line in self._context.jobs.events(after_seq=self._last_seq, limit=200):
            self._last_seq = line.seq
            body = orjson.dumps(dataclasses.asdict(line))
            lines.append(b"id: %d\nevent: job_event\ndata: %s\n\n" % (line.seq, body))
        return lines

    def _models(self) -> list[bytes]:
        rows = self._context.pool.loaded()
        shown = [tuple(row[name] for name in _SHOWN_OF_MODELS) for row in rows]
        if shown == self._sent_models:
            return []
        self._sent_models = shown
        return [event({"data": rows}, "models")]
