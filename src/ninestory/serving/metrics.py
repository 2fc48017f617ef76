"""Figures for Prometheus, in a registry of our own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ninestory.runtimes.protocol import Chunk, Embeddings, Text, ToolCallDelta, Usage


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ninestory_requests_total", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "ninestory_request_seconds", "Duration of HTTP requests", ["route"], registry=self.registry
        )
        self.tokens = Counter("ninestory_tokens_total", "Tokens", ["model", "kind"], registry=self.registry)
        self.first_token = Histogram(
            "ninestory_first_token_seconds", "Time to the first token", ["model"], registry=self.registry
        )
        self.workers = Gauge("ninestory_workers", "Loaded models", ["state"], registry=self.registry)
        self.worker_bytes = Gauge(
            "ninestory_worker_planned_bytes", "Planned memory of a model", ["model"], registry=self.registry
        )

    async def observed(self, model: str, chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
        """The same chunks; notes the time to the first token, and the tokens once the engine has counted them."""
        began, waiting = time.perf_counter(), True
        try:
            async for chunk in chunks:
                if waiting and isinstance(chunk, Text | ToolCallDelta):
                    waiting = False
                    self.first_token.labels(model).observe(time.perf_counter() - began)
                elif isinstance(chunk, Usage | Embeddings):
                    self.tokens.labels(model, "prompt").inc(chunk.prompt_tokens)
                    if isinstance(chunk, Usage):
                        self.tokens.labels(model, "completion").inc(chunk.completion_tokens)
                yield chunk
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]

    def render(self) -> bytes:
        return generate_latest(self.registry)
