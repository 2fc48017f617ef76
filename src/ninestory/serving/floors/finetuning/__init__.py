"""Routes of floor 8: fine-tuning jobs, runs and their reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import APIRouter

    from ninestory.serving.context import GatewayContext


def routes(context: GatewayContext) -> list[APIRouter]:
    """The floor's routers; their modules are imported here, since the schemas beside them are used by other routes."""
    from ninestory.serving.floors.finetuning import fine_tuning, tuning

    return [module.router(context) for module in (fine_tuning, tuning)]
