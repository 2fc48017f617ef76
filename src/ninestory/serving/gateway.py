"""The application: routes behind one guard. Takes ready-made parts, so a test builds one in three lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse

from ninestory import __version__
from ninestory.floors.table import FLOORS, load_part
from ninestory.serving.context import GatewayContext
from ninestory.serving.errors import ErrorBody, documented, install_handlers
from ninestory.serving.guard import Guard
from ninestory.serving.job_process import JobProcesses
from ninestory.serving.query import refuse_unknown_query
from ninestory.serving.request_log import note_request
from ninestory.serving.request_text import NAME_PATTERN, refuse_broken_text
from ninestory.serving.routes import (
    artifacts,
    catalogue,
    embeddings,
    events,
    files,
    guides,
    health,
    installed,
    jobs,
    media,
    models,
    plan,
    presets,
    session,
    system,
)

# Routes that belong to no floor; those of the floors are composed from floors/table.py.
OWN_ROUTES = (
    *(health, models, embeddings, files, session, presets, jobs, events, installed, plan, catalogue, guides, system),
    *(media, artifacts),
)


def create_app(context: GatewayContext) -> Any:
    """The ASGI application of a server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        job_processes = JobProcesses(context.jobs, context.home, context.settings, context.pool)
        await context.pool.start()
        await job_processes.start()
        yield
        await job_processes.close()
        await context.knowledge.close()
        context.sources.close()
        await context.pool.close()

    async def keep_room_on_disk(request: HTTPConnection) -> AsyncIterator[None]:
        """On a full disk the reserve is lent to what reads and deletes."""
        lent = request.scope.get("method") in ("GET", "DELETE")
        if lent:
            context.reserve.release_if_low()
        yield
        if lent:
            context.reserve.make()

    app = FastAPI(
        title="ninestory",
        version=__version__,
        summary="The nine-story tower of open models behind one OpenAI-compatible API.",
        docs_url=None,  # those pages load scripts from another host
        redoc_url=None,
        lifespan=lifespan,
        responses=documented(ErrorBody),
        dependencies=[Depends(refuse_unknown_query), Depends(refuse_broken_text), Depends(keep_room_on_disk)],
    )
    install_handlers(app)
    for module in OWN_ROUTES:
        app.include_router(module.router(context))
    for floor in FLOORS.values():
        for router in load_part(floor.routes)(context) if floor.routes else ():
            app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/ui/")

    _mount_page(app)
    _document_names(app)
    return Guard(app, context.settings.serve, context.keys, note_request(context))


def _document_names(app: FastAPI) -> None:
    """State in the document what `refuse_broken_text` asks of every path and query parameter."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for operations in generated()["paths"].values():
                for operation in operations.values():
                    for parameter in operation.get("parameters", ()):
                        schema = parameter["schema"]
                        for option in schema.get("anyOf", [schema]):
                            if parameter["in"] in ("path", "query") and option.get("type") == "string":
                                option.setdefault("pattern", NAME_PATTERN)
        return generated()

    app.openapi = openapi  # type: ignore[method-assign]


def _mount_page(app: FastAPI) -> None:
    from ninestory import webui

    webui.mount(app)
