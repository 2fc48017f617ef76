"""`/ninestory/v1/vector_stores/{id}/feedback`: thumbs given to answers; `ninestory kb evaluate --feedback` asks them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from ninestory.floors.retrieval import open_by_id
from ninestory.serving.context import GatewayContext
from ninestory.serving.schemas import Strict


class Thumb(Strict):
    question: str = Field(min_length=1, max_length=20_000)
    answer: str = Field(max_length=200_000)
    good: bool
    file: str = Field(default="", max_length=4096, description="Name of the file that the answer cites first.")
    passage: str = Field(default="", max_length=20_000, description="Text that the cited passage holds.")
    model: str = Field(default="", max_length=4096)


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/vector_stores/{vector_store_id}/feedback", tags=["vector stores"])

    @routes.post("", status_code=201)
    def give(vector_store_id: str, body: Thumb) -> dict[str, Any]:
        """Keep a thumb up or down for an answer."""
        with open_by_id(context.home, vector_store_id) as base:
            return base.add_feedback(**body.model_dump())

    @routes.get("")
    def given(vector_store_id: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """Thumbs given, newest first."""
        with open_by_id(context.home, vector_store_id) as base:
            return {"object": "list", "data": base.feedback(limit)}

    return routes
