"""`/ninestory/v1/plan`: will it fit, before it is loaded."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from ninestory.models.plan import plan
from ninestory.models.resolve import resolve
from ninestory.serving.context import GatewayContext
from ninestory.serving.routes.installed import ModelName, named


class PlanRequest(ModelName):
    context: int = Field(default=0, ge=0, le=1 << 22, description="Tokens of one conversation; 0 = the server's.")
    concurrency: int = Field(default=0, ge=0, le=256, description="Requests decoded together; 0 = the server's.")


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1", tags=["plan"])

    @routes.post("/plan")
    async def plan_model(body: PlanRequest) -> dict[str, Any]:
        """Predicted peak memory of a model, part by part, and what is free."""
        settings = context.settings.runtime
        settings = dataclasses.replace(
            settings, context=body.context or settings.context, slots=body.concurrency or settings.slots
        )
        model = await asyncio.to_thread(resolve, named(body.model), context.home)
        made = await asyncio.to_thread(plan, model, settings)
        return {**dataclasses.asdict(made), "total_bytes": made.total_bytes, "fits": made.fits}

    return routes
