"""`/ninestory/v1/presets`: a name for a model, a system prompt and settings."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from ninestory.serving.context import GatewayContext
from ninestory.serving.schemas import Strict
from ninestory.serving.stores.presets import PresetStore

MAX_SYSTEM_CHARACTERS = 100_000


class NewPreset(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "Translator", "system": "Translate into Chinese."}]}
    )

    name: str = Field(min_length=1, max_length=100)
    floor: str = Field(default="chat", max_length=40, pattern=r"^[a-z_-]+$")
    model: str | None = Field(default=None, max_length=4096)
    system: str = Field(default="", max_length=MAX_SYSTEM_CHARACTERS)
    settings: dict[str, Any] = {}


class PresetChanges(Strict):
    """What is left out stays as it is."""

    revision: int
    name: str | None = Field(default=None, min_length=1, max_length=100)
    model: str | None = Field(default=None, max_length=4096)
    system: str | None = Field(default=None, max_length=MAX_SYSTEM_CHARACTERS)
    settings: dict[str, Any] | None = None


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/presets", tags=["presets"])
    store = PresetStore(context.state)

    @routes.get("")
    async def list_presets(floor: Annotated[str | None, Query(max_length=40)] = None) -> dict[str, Any]:
        """All presets, by name."""
        return {"object": "list", "data": store.list(floor), "has_more": False}

    @routes.post("", status_code=201)
    async def create(body: NewPreset) -> dict[str, Any]:
        """Store a preset."""
        return store.create(body.model_dump())

    @routes.patch("/{preset_id}")
    async def change(preset_id: str, body: PresetChanges) -> dict[str, Any]:
        """Change what is named. A stale revision is a 409 and changes nothing."""
        changes = body.model_dump(exclude_unset=True, exclude={"revision"})
        changes = {name: value for name, value in changes.items() if value is not None or name == "model"}
        return store.update(preset_id, body.revision, changes)

    @routes.delete("/{preset_id}")
    async def delete(preset_id: str) -> dict[str, Any]:
        """Delete a preset."""
        store.delete(preset_id)
        return {"id": preset_id, "object": "preset.deleted", "deleted": True}

    return routes
