"""`/ninestory/v1/media`: pictures and sounds that requests refer to by digest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, File, UploadFile
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from ninestory.core.media import UNKNOWN_MEDIA_TYPE, StoredMedia
from ninestory.serving.context import GatewayContext

SWEEP_SECONDS: Final = 3600.0
Digest = Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$")]

# The browser may show what the spool holds, but nothing in it may run: an SVG is served as a download.
CONTENT_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",
}


def router(context: GatewayContext) -> APIRouter:
    @asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep_hourly(context))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    routes = APIRouter(prefix="/ninestory/v1/media", tags=["media"], lifespan=sweeping)
    max_bytes = int(context.settings.serve.max_upload_mb * (1 << 20))

    @routes.post("", status_code=201)
    async def upload(
        file: Annotated[UploadFile, File(description="A picture or a sound; its name is not kept.")],
    ) -> dict[str, Any]:
        """Store a picture or a sound; the same content gives the same digest."""
        return _as_dict(await run_in_threadpool(context.media.put, file.file, max_bytes=max_bytes))

    @routes.get("/{digest}", response_class=FileResponse)
    async def content(digest: Digest) -> FileResponse:
        """The bytes of a digest."""
        media = context.media.get(digest)
        headers = dict(CONTENT_HEADERS)
        if media.media_type == UNKNOWN_MEDIA_TYPE:
            headers["Content-Disposition"] = "attachment"
        return FileResponse(context.media.path(digest), media_type=media.media_type, headers=headers)

    return routes


async def _sweep_hourly(context: GatewayContext) -> None:
    while True:
        await run_in_threadpool(context.media.sweep)
        await asyncio.sleep(SWEEP_SECONDS)


def _as_dict(media: StoredMedia) -> dict[str, Any]:
    return {"object": "media", "digest": media.digest, "media_type": media.media_type, "bytes": media.size}
