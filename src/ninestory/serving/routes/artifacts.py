"""`/ninestory/v1/artifacts`: what models made here, with what made it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import FileResponse

from ninestory.serving.context import GatewayContext
from ninestory.serving.routes.media import CONTENT_HEADERS


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/artifacts", tags=["artifacts"])
    store = context.artifacts

    @routes.get("")
    async def list_artifacts(
        query: Annotated[str, Query(max_length=500, description="words of the prompt or the model's name")] = "",
        kind: Literal["image", "audio"] | None = None,
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:
        """Artifacts, newest first."""
        artifacts = store.list(words=query, kind=kind, after=after, limit=limit + 1)
        data = [artifact.as_dict() for artifact in artifacts[:limit]]
        return {"object": "list", "data": data, "has_more": len(artifacts) > limit}

    @routes.get("/{artifact_id}")
    async def retrieve(artifact_id: str) -> dict[str, Any]:
        """One artifact: its model, request, seed and parents."""
        return store.get(artifact_id).as_dict()

    @routes.get("/{artifact_id}/content", response_class=FileResponse)
    async def content(artifact_id: str) -> FileResponse:
        """The bytes of an artifact."""
        artifact = store.get(artifact_id)
        return FileResponse(store.content(artifact_id), media_type=artifact.media_type, headers=CONTENT_HEADERS)

    @routes.delete("/{artifact_id}")
    async def delete(artifact_id: str) -> dict[str, Any]:
        """Delete an artifact and its file in `outputs/`."""
        store.delete(artifact_id)
        return {"id": artifact_id, "object": "artifact", "deleted": True}

    return routes
