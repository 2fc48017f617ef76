"""What every route is given. Made once by `gateway.create_app`; no module holds state of its own."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request as HttpRequest

from ninestory.core.artifacts import ArtifactStore
from ninestory.core.config import Loaded, Settings
from ninestory.core.media import MediaSpool
from ninestory.core.paths import Home
from ninestory.core.reserve import DiskReserve
from ninestory.core.state import State
from ninestory.jobs.store import JobStore
from ninestory.runtimes.protocol import Request
from ninestory.serving.guard import KeyCheck
from ninestory.serving.knowledge import KnowledgeReader
from ninestory.serving.metrics import Metrics
from ninestory.serving.pool import Pool
from ninestory.serving.source_reader import SourceReader
from ninestory.serving.stores.conversations import ConversationStore
from ninestory.serving.streaming import merged, until_gone


@dataclass
class GatewayContext:
    loaded_settings: Loaded
    home: Home
    pool: Pool
    state: State
    jobs: JobStore
    keys: KeyCheck
    metrics: Metrics
    started_at: float = field(default_factory=time.time)
    stopping: bool = False  # set by the signal that ends the server: endless streams end themselves
    knowledge: KnowledgeReader = field(init=False)
    sources: SourceReader = field(default_factory=SourceReader)
    reserve: DiskReserve = field(init=False)
    media: MediaSpool = field(init=False)
    artifacts: ArtifactStore = field(init=False)
    requests: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=500))

    def __post_init__(self) -> None:
        self.knowledge = KnowledgeReader(self.home)
        self.reserve = DiskReserve(self.home.reserve)
        self.media = MediaSpool(
            self.home.media, quota_bytes=int(self.settings.serve.media_quota_gb * 1e9), pinned=self._media_in_use
        )
        self.artifacts = ArtifactStore(self.state, self.media, self.home.outputs)

    def _media_in_use(self) -> frozenset[str]:
        return self.artifacts.digests() | ConversationStore(self.state).media_digests()

    @property
    def settings(self) -> Settings:
        return self.loaded_settings.settings

    def ask(self, request: HttpRequest, model: str, engine_request: Request) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a model's engine for this HTTP request: under its id, counted, ended when the client goes."""
        return until_gone(request, self._chunks(request, model, engine_request))

    def ask_all(
        self, request: HttpRequest, model: str, engine_requests: Sequence[Request]
    ) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """The same for several engine requests: (place in the list, chunk), as the chunks come.

        As many run at a time as the model has slots, so that they do not fill its queue. The first error ends all.
        """
        chunks = [self._chunks(request, model, engine_request) for engine_request in engine_requests]
        return until_gone(request, merged(chunks, lambda: (self.pool.engine_info(model) or {"slots": 1})["slots"]))

    def _chunks(self, request: HttpRequest, model: str, engine_request: Request) -> AsyncIterator[dict[str, Any]]:
        engine_request = dataclasses.replace(engine_request, request_id=request.state.request_id)
        return self.metrics.observed(model, self.pool.run(model, engine_request))
