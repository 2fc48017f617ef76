"""`/v1/rerank` in the form that Jina, Cohere and vLLM share: documents by their nearness to a query.

Scored by an embedding model's cosine: one model reads query and document apart.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from ninestory.floors.retrieval.knowledge_base import DEFAULT_MODEL
from ninestory.serving.context import GatewayContext
from ninestory.serving.knowledge import embed
from ninestory.serving.schemas import Strict


class Document(Strict):
    text: str


class RerankRequest(Strict):
    model: str = Field(default=DEFAULT_MODEL, min_length=1, max_length=4096)
    query: str = Field(min_length=1, max_length=20_000)
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=1000)]
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["rerank"])

    @routes.post("/v1/rerank")
    async def rerank(body: RerankRequest, request: Request) -> dict[str, Any]:
        """Documents in order of their relevance to a query."""
        texts = [document if isinstance(document, str) else document.text for document in body.documents]
        query = (await embed(context, request, body.model, [body.query], "query"))[0]
        vectors = await embed(context, request, body.model, texts, "passage")
        scores = [sum(a * b for a, b in zip(query, vector, strict=True)) for vector in vectors]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])[: body.top_n]
        results: list[dict[str, Any]] = [{"index": place, "relevance_score": scores[place]} for place in order]
        if body.return_documents:
            results = [{**result, "document": {"text": texts[result["index"]]}} for result in results]
        return {"object": "list", "model": body.model, "results": results}

    return routes
