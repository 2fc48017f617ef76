"""`/v1/files` as OpenAI has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from starlette.responses import FileResponse

from ninestory.serving.context import GatewayContext
from ninestory.serving.stores.files import FileStore

Unwritten = SkipJsonSchema[None]  # a form has no way to write null, so the document does not allow it
Lifetime = Annotated[int, Field(ge=3600, le=2592000, description="Seconds.")]
Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["files"])
    store = FileStore(context.state, context.home.files)
    store.sweep()
    max_bytes = int(context.settings.serve.max_upload_mb * (1 << 20))

    @routes.post("/v1/files")
    async def upload(
        file: Annotated[UploadFile, File(description="The file; only the last part of its name is kept.")],
        purpose: Annotated[Purpose, Form()],
        expires_anchor: Annotated[Literal["created_at"] | Unwritten, Form(alias="expires_after[anchor]")] = None,
        expires_seconds: Annotated[Lifetime | Unwritten, Form(alias="expires_after[seconds]")] = None,
    ) -> dict[str, Any]:
        """Store a file."""
        return await run_in_threadpool(
            store.put,
            file.file,
            file.filename or "",
            purpose,
            max_bytes=max_bytes,
            expires_after=expires_seconds,
        )

    @routes.get("/v1/files")
    async def list_files(
        purpose: Annotated[str | None, Query(max_length=40)] = None,
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """The files stored here."""
        found = store.list(purpose=purpose, after=after, limit=limit + 1, newest_first=order == "desc")
        page = found[:limit]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(found) > limit,
        }

    @routes.get("/v1/files/{file_id}")
    async def retrieve(file_id: str) -> dict[str, Any]:
        """What is known of a file."""
        return store.get(file_id)

    @routes.get("/v1/files/{file_id}/content", response_class=FileResponse)
    async def content(file_id: str) -> FileResponse:
        """A file's content, always as a download: what was uploaded is never shown as a page of this server."""
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(store.get(file_id)['filename'])}",
            "X-Content-Type-Options": "nosniff",
        }
        return FileResponse(store.path(file_id), media_type="application/octet-stream", headers=headers)

    @routes.delete("/v1/files/{file_id}")
    async def delete(file_id: str) -> dict[str, Any]:
        """Delete a file."""
        store.delete(file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    return routes
