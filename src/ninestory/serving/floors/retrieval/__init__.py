"""Routes of floor 2: vector stores, their sources, feedback and reranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import APIRouter

    from ninestory.serving.context import GatewayContext


def routes(context: GatewayContext) -> list[APIRouter]:
    """The floor's routers; their modules are imported here, since the schemas beside them are used by other routes."""
    from ninestory.serving.floors.retrieval import feedback, rerank, source, vector_stores

    return [module.router(context) for module in (feedback, rerank, source, vector_stores)]
