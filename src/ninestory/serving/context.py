"""What every route is given. Made once by `gateway.create_app`; no module holds state of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from ninestory.core.artifacts import ArtifactStore
from ninestory.core.config import Loaded, Settings
from ninestory.core.media import MediaSpool
from ninestory.core.paths import Home
from ninestory.core.reserve import DiskReserve
from ninestory.core.state import State
from ninestory.jobs.store import JobStore
from ninestory.runtimes.protocol import Chunk, EngineProvider, Request
from ninestory.serving.guard import KeyCheck
from ninestory.serving.knowledge import KnowledgeReader
from ninestory.serving.metrics import Metrics
from ninestory.serving.pool import Pool
from ninestory.serving.proxy import PoolEngines
from ninestory.serving.source_reader import SourceReader
from ninestory.serving.stores.conversations import ConversationStore
from ninestory.serving.streaming import merged, until_gone

T = TypeVar("T")


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
    floor_threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16, "floor"))
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

    async def in_floor(self, request: HttpRequest, work: Callable[[EngineProvider], T]) -> T:
        """Run a floor's work in a thread, with engines whose requests belong to this HTTP request."""
        loop = asyncio.get_running_loop()
        engines = PoolEngines(self.pool, loop, lambda model, asked: self.ask(request, model, asked))
        return await loop.run_in_executor(self.floor_threads, work, engines)

    @property
    def settings(self) -> Settings:
        return self.loaded_settings.settings

    def ask(self, request: HttpRequest, model: str, engine_request: Request) -> AsyncIterator[Chunk]:
        """The chunks of a model's engine for this HTTP request: under its id, counted, ended when the client goes."""
        return until_gone(request, self._chunks(request, model, engine_request))

    def ask_all(
        self, request: HttpRequest, model: str, engine_requests: Sequence[Request]
    ) -> AsyncIterator[tuple[int, Chunk]]:
        """The same for several engine requests: (place in the list, chunk), as the chunks come.

        As many run at a time as the model has slots, so that they do not fill its queue. The first error ends all.
        """
        chunks = [self._chunks(request, model, engine_request) for engine_request in engine_requests]
        return until_gone(request, merged(chunks, lambda: self.pool.slots(model)))

    def _chunks(self, request: HttpRequest, model: str, engine_request: Request) -> AsyncIterator[Chunk]:
        engine_request = dataclasses.replace(engine_request, request_id=request.state.request_id)
        return self.metrics.observed(model, self.pool.run(model, engine_request))
