"""Figures for Prometheus, in a registry of our own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


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

    def render(self) -> bytes:
        return generate_latest(self.registry)
