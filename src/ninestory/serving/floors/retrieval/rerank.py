"""`/v1/rerank` in the form that Jina, Cohere and vLLM share: documents by their nearness to a query.

Scored by a cross-encoder, by late interaction of an embedding model's token vectors (the starter's too), or, of an
embedding model that gives none, by the cosine.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from ninestory.core.errors import Unsupported
from ninestory.floors.retrieval import DEFAULT_MODEL
from ninestory.serving.context import GatewayContext
from ninestory.serving.knowledge import embed, relevance
from ninestory.serving.references import ModelReference
from ninestory.serving.schemas import Strict


class Document(Strict):
    text: str


class RerankRequest(Strict):
    model: ModelReference = DEFAULT_MODEL
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
        scores = await _scores(context, request, body.model, body.query, texts)
        order = sorted(range(len(scores)), key=lambda place: -scores[place])[: body.top_n]
        results: list[dict[str, Any]] = [{"index": place, "relevance_score": scores[place]} for place in order]
        if body.return_documents:
            results = [{**result, "document": {"text": texts[result["index"]]}} for result in results]
        return {"object": "list", "model": body.model, "results": results}

    return routes


async def _scores(context: GatewayContext, request: Request, model: str, query: str, texts: list[str]) -> list[float]:
    try:
        return await relevance(context, request, model, query, texts)
    except Unsupported:
        info = context.pool.engine_info(model)
        if info is None or "embedding" not in info.tasks:
            raise
    vector = (await embed(context, request, model, [query], "query"))[0]
    vectors = await embed(context, request, model, texts, "passage")
    return [sum(a * b for a, b in zip(vector, other, strict=True)) for other in vectors]
