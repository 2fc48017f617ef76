"""`/ninestory/v1/catalogue`: the systems of the tower, as their TOML files describe them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Query

from ninestory.models.catalogue import find, load_catalogue
from ninestory.serving.context import GatewayContext


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/catalogue", tags=["catalogue"])

    @routes.get("")
    async def systems(floor: Annotated[int | None, Query(ge=1, le=9)] = None) -> dict[str, Any]:
        """All systems, or those of one floor."""
        found = [s for s in load_catalogue().values() if floor is None or s.floor == floor]
        return {"object": "list", "data": [dataclasses.asdict(s) for s in found], "has_more": False}

    @routes.get("/{name}")
    async def system(name: str) -> dict[str, Any]:
        """One system."""
        return dataclasses.asdict(find(name))

    return routes
