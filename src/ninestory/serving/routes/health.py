"""`/health` and `/metrics`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from ninestory.serving.context import GatewayContext


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the gateway answers, and the state of each model's worker."""
        return {"status": "ok", "models": {row["model"]: row["state"] for row in context.pool.loaded()}}

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures in Prometheus' text form."""
        context.metrics.workers.clear()
        for row in context.pool.loaded():
            context.metrics.workers.labels(row["state"]).inc()
            context.metrics.worker_bytes.labels(row["model"]).set(row["planned_bytes"])
        return Response(context.metrics.render(), media_type="text/plain; version=0.0.4")

    return routes
