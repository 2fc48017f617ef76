"""`/v1/models`: what can be asked by name now."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from ninestory.core.errors import NotFound
from ninestory.models.store import list_installed
from ninestory.serving.context import GatewayContext


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["models"])

    def row(reference: str, owner: str) -> dict[str, Any]:
        return {"id": reference, "object": "model", "created": int(context.started_at), "owned_by": owner}

    async def rows() -> list[dict[str, Any]]:
        installed = await asyncio.to_thread(list_installed, context.home)
        found = {m.reference: row(m.reference, m.source) for m in installed}
        for loaded in context.pool.loaded():
            found.setdefault(loaded["model"], row(loaded["model"], "loaded"))
        return list(found.values())

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Installed and loaded models."""
        return {"object": "list", "data": await rows()}

    @routes.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        """One of them."""
        for entry in await rows():
            if entry["id"] == model:
                return entry
        raise NotFound(
            f"The model {model!r} is not installed.",
            hint=f"ninestory pull {model}",
            hint_zh=f"请运行：ninestory pull {model}",
            param="model",
            code="model_not_found",
        )

    return routes
