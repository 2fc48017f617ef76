"""`/v1/embeddings`: unit vectors, as floats or base64."""

from __future__ import annotations

import base64
import struct
from typing import Any

from fastapi import APIRouter, Request

from ninestory.core.errors import Unsupported
from ninestory.runtimes.protocol import Embeddings
from ninestory.serving.context import GatewayContext
from ninestory.serving.schemas import EmbeddingsRequest


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["embeddings"])

    @routes.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsRequest, request: Request) -> dict[str, Any]:
        """Vectors of one or many texts."""
        vectors: list[list[float]] = []
        tokens = 0
        async for chunk in context.ask(request, body.model, body.to_request()):
            if isinstance(chunk, Embeddings):
                vectors += chunk.vectors
                tokens += chunk.prompt_tokens
        if body.dimensions and vectors and body.dimensions != len(vectors[0]):
            raise Unsupported(
                f"{body.model} gives {len(vectors[0])} dimensions, not {body.dimensions}.",
                hint="Leave dimensions out.",
                hint_zh="请去掉 dimensions。",
                param="dimensions",
            )
        encode = _base64 if body.encoding_format == "base64" else list
        data = [{"object": "embedding", "index": i, "embedding": encode(v)} for i, v in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": body.model, "usage": usage}

    return routes


def _base64(vector: list[float]) -> str:
    """Little-endian float32, as the official client expects."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
