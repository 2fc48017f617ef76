"""`/ninestory/v1/plan`: will it fit, before it is loaded."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from ninestory.models.plan import largest_that_fits
from ninestory.runtimes.plan import plans_for
from ninestory.serving.context import GatewayContext
from ninestory.serving.references import requested_name
from ninestory.serving.routes.installed import ModelName


class PlanRequest(ModelName):
    context: int = Field(default=0, ge=0, le=1 << 22, description="Tokens of one conversation; 0 = the server's.")
    concurrency: int = Field(default=0, ge=0, le=256, description="Requests decoded together; 0 = the server's.")


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1", tags=["plan"])

    @routes.post("/plan")
    async def plan_model(body: PlanRequest) -> dict[str, Any]:
        """Predicted peak memory of a model, installed or not, by device and part; its other variants beside it."""
        settings = context.settings.runtime
        settings = dataclasses.replace(
            settings, context=body.context or settings.context, slots=body.concurrency or settings.slots
        )
        plans = await asyncio.to_thread(
            plans_for, str(requested_name(body.model, context.home)), settings, context.home
        )
        best = largest_that_fits(plans)
        return {
            **plans[0].as_dict(),
            "largest_that_fits": best.model if best else None,
            "alternatives": [other.as_dict() for other in plans[1:]],
        }

    return routes
