"""All models of a server: started on demand, admitted by the memory plan, unloaded when idle, restarted after a crash.

What the routes call: `async for chunk in pool.run(reference, request)`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ninestory.core.config import Settings
from ninestory.core.errors import Busy, DoesNotFit, NinestoryError, TimedOut, Unavailable
from ninestory.core.machine import available_bytes
from ninestory.core.paths import Home
from ninestory.models.reference import parse_reference
from ninestory.runtimes.protocol import Request
from ninestory.serving.references import requested
from ninestory.serving.supervisor import WorkerProcess

log = logging.getLogger("ninestory.pool")
_BACKOFF_FIRST, _BACKOFF_MOST, _HEALTHY_AFTER, _DEATHS = 0.5, 30.0, 60.0, 5
_DRAIN_SECONDS = 30.0


@dataclass
class Model:
    """One model that was asked for, with or without a running worker."""

    reference: str
    keep_alive: float
    chosen: dict[str, Any] = field(default_factory=dict)  # RuntimeSettings named at load, before the server's own
    worker: WorkerProcess | None = None
    running: int = 0
    waiting: int = 0
    free: asyncio.Condition = field(default_factory=asyncio.Condition)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    deaths: int = 0
    restart_at: float = 0.0
    used_at: float = field(default_factory=time.monotonic)

    @property
    def loaded(self) -> bool:
        return self.worker is not None and self.worker.state in ("ready", "busy")

    @property
    def slots(self) -> int:
        return int(self.worker.info["slots"]) if self.worker and self.worker.info else 1


class Pool:
    def __init__(self, settings: Settings, home: Home, on_change: Callable[[], None] = lambda: None) -> None:
        self._settings, self._home = settings, home
        self._models: dict[str, Model] = {}
        self._admission = asyncio.Lock()
        self._on_change = on_change
        self._closing = False
        self._idle_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._idle_task = asyncio.create_task(self._watch_workers())

    async def close(self, timeout: float = _DRAIN_SECONDS) -> None:
        """Refuse new requests, let the running ones end, stop every worker."""
        self._closing = True
        if self._idle_task:
            self._idle_task.cancel()
        await asyncio.gather(*(m.worker.drain(timeout) for m in self._models.values() if m.worker))

    # --- requests -----------------------------------------------------------------------------------------------

    async def run(self, reference: str, request: Request) -> AsyncIterator[dict[str, Any]]:
        """Run a request on a model, starting it first if need be. Yields the engine's chunks as dicts.

        A request of which nothing was sent yet is put back once when its worker dies.

        Raises:
            Busy: too many requests wait for this model. DoesNotFit, NotFound, Unavailable, TimedOut, …
        """
        model = self._model(reference)
        deadline = time.monotonic() + self._settings.serve.request_timeout
        await self._take_slot(model, deadline)
        sent = False
        given: asyncio.Task[None] | None = None

        def give_slot() -> None:  # once: when the engine is done, or at the end of this iterator
            nonlocal given
            given = given or asyncio.create_task(self._give_slot(model))

        try:
            for attempt in (1, 2):
                worker = await self._ready(model)
                chunks = worker.run(request, give_slot, (deadline, self._too_long()))
                try:
                    async for chunk in chunks:
                        sent = True
                        yield chunk
                    return
                except Unavailable as error:
                    if error.code != "worker_died" or sent or attempt == 2:
                        raise
                    log.warning("worker of %s died before it answered: trying once more", reference)
                finally:
                    await chunks.aclose()  # type: ignore[attr-defined]
        finally:
            give_slot()
            assert given is not None
            await asyncio.shield(given)

    def _too_long(self) -> TimedOut:
        seconds = self._settings.serve.request_timeout
        return TimedOut(
            f"The request took longer than {seconds:g} s.",
            hint="Ask for fewer tokens, or raise serve.request_timeout.",
            hint_zh="请减少 max_tokens，或调大 serve.request_timeout。",
        )

    async def _take_slot(self, model: Model, deadline: float) -> None:
        if self._closing:
            raise Unavailable(
                "The server is shutting down.", hint="Try again in a moment.", hint_zh="请稍后再试。", retry_after=5
            )
        if model.waiting >= self._settings.serve.max_queue:
            raise Busy(
                f"{model.waiting} requests already wait for {model.reference}.",
                hint="Try again in a moment, or raise serve.max_queue.",
                hint_zh="请稍后再试，或调大 serve.max_queue。",
                retry_after=2,
            )
        model.waiting += 1
        try:
            async with model.free:
                wait = model.free.wait_for(lambda: model.running < model.slots)
                await asyncio.wait_for(wait, max(deadline - time.monotonic(), 0.001))
                model.running += 1
        except TimeoutError:
            raise self._too_long() from None
        finally:
            model.waiting -= 1
        self._on_change()

    async def _give_slot(self, model: Model) -> None:
        async with model.free:
            model.running -= 1
            model.used_at = time.monotonic()
            model.free.notify_all()
        self._on_change()
        unused = model.worker is None and not (model.running or model.waiting or model.starting.locked())
        if unused and model.restart_at < time.monotonic():  # a name nobody has, or a model unloaded meanwhile
            self._models.pop(model.reference, None)
        elif model.keep_alive == 0 and not model.running and not model.waiting:
            await self.unload(model.reference)

    # --- loading ------------------------------------------------------------------------------------------------

    async def load(
        self, reference: str, keep_alive: float | None = None, chosen: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Load a model, or load it anew when it was loaded otherwise.

        Args:
            chosen: fields of RuntimeSettings for this model (template, dtype, fast); those left out stay as they are.
        """
        model = self._model(reference)
        if keep_alive is not None:
            model.keep_alive = keep_alive
        before, wanted = model.chosen, {**model.chosen, **(chosen or {})}
        if wanted != before:
            model.chosen = wanted
            await self.unload(reference)
        try:
            await self._ready(model)
        except NinestoryError:
            model.chosen = before  # a wrong name must not stay with the model
            raise
        return self._row(model)

    async def unload(self, reference: str) -> bool:
        """Stop a model's worker when its requests are done; True when there was one."""
        model = self._models.get(self._key(reference))
        if model is None or model.worker is None:
            return False
        async with model.starting:
            worker, model.worker = model.worker, None
            if worker is not None:
                await worker.drain(_DRAIN_SECONDS)
        self._on_change()
        return worker is not None

    def loaded(self) -> list[dict[str, Any]]:
        """What runs now, for `ps`."""
        return [self._row(m) for m in self._models.values() if m.worker is not None]

    def engine_info(self, reference: str) -> dict[str, Any] | None:
        model = self._models.get(self._key(reference))
        return model.worker.info if model and model.worker and model.worker.info else None

    async def _ready(self, model: Model) -> WorkerProcess:
        async with model.starting:
            if model.worker is not None and model.worker.state == "dead":
                self._count_death(model)
            if model.worker is None or model.worker.state in ("dead", "draining"):
                await self._start(model)
            assert model.worker is not None
            return model.worker

    def _count_death(self, model: Model) -> None:
        assert model.worker is not None
        healthy = time.monotonic() - model.worker.started_at > _HEALTHY_AFTER
        model.deaths = 1 if healthy else model.deaths + 1
        backoff = min(_BACKOFF_FIRST * 2 ** (model.deaths - 1), _BACKOFF_MOST)
        model.restart_at = time.monotonic() + backoff
        if model.deaths >= _DEATHS:
            error = model.worker.death()
            model.worker, model.deaths = None, 0
            model.restart_at = time.monotonic() + _BACKOFF_MOST
            raise Unavailable(
                f"The worker of {model.reference} died {_DEATHS} times in a row. {error.message}",
                hint=error.hint,
                hint_zh=error.hint_zh,
                code="worker_keeps_dying",
                retry_after=int(_BACKOFF_MOST),
            )

    async def _start(self, model: Model) -> None:
        if (wait := model.restart_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        timeout = self._settings.serve.start_timeout
        named = {name: value for name, value in model.chosen.items() if value != ""}
        runtime = dataclasses.replace(self._settings.runtime, **named)
        worker = WorkerProcess(model.reference, runtime, self._home.root)
        model.worker = worker
        self._on_change()
        try:
            await worker.resolve(timeout)
            async with self._admission:
                await self._make_room(worker)
                await worker.load(timeout)
        except (NinestoryError, asyncio.CancelledError) as error:
            worker.kill()
            if not (isinstance(error, Unavailable) and error.code == "worker_died"):
                model.worker = None  # refused, not crashed
            self._on_change()
            raise
        log.info("loaded %s in %.1f s", model.reference, time.monotonic() - worker.started_at)
        async with model.free:
            model.free.notify_all()
        self._on_change()

    async def _make_room(self, worker: WorkerProcess) -> None:
        """Evict idle models, least recently used first, until the plan of `worker` fits."""
        while worker.needed_bytes > (free := self._free_bytes(worker)):
            idle = [
                m
                for m in self._models.values()
                if m.loaded and m.worker is not worker and not m.running and not m.waiting
            ]
            if not idle:
                raise DoesNotFit(
                    f"{worker.reference} needs about {worker.needed_bytes >> 20} MB and {free >> 20} MB are free.",
                    hint="Unload another model, lower --context or --slots, or choose a smaller variant (ninestory plan).",
                    hint_zh="请卸载其他模型、减小 --context 或 --slots，或选择更小的变体（ninestory plan）。",
                    needed_bytes=worker.needed_bytes,
                    free_bytes=free,
                )
            victim = min(idle, key=lambda m: m.used_at)
            log.info("evicting %s to make room for %s", victim.reference, worker.reference)
            evicted, victim.worker = victim.worker, None
            assert evicted is not None
            await evicted.drain(_DRAIN_SECONDS)
            self._on_change()

    def _free_bytes(self, newcomer: WorkerProcess) -> int:
        limit = int(self._settings.serve.memory_limit_mb * (1 << 20))
        if not limit:
            return available_bytes()
        others = (m.worker for m in self._models.values() if m.loaded and m.worker is not newcomer)
        return limit - sum(worker.needed_bytes for worker in others if worker)

    async def _watch_workers(self) -> None:
        """Once a second: end the workers that were stopped, unload the models that have been idle for long enough."""
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for model in list(self._models.values()):
                if model.worker is not None:
                    model.worker.end_if_stopped()
                idle = model.loaded and not model.running and not model.waiting
                if idle and 0 <= model.keep_alive < now - model.used_at:
                    log.info("unloading %s after %.0f idle seconds", model.reference, now - model.used_at)
                    await self.unload(model.reference)

    # --- names --------------------------------------------------------------------------------------------------

    def _model(self, reference: str) -> Model:
        key = self._key(reference)
        if key not in self._models:
            requested(reference, self._home, self._settings.serve.preload)
            self._models[key] = Model(key, self._settings.serve.keep_alive)
        return self._models[key]

    @staticmethod
    def _key(reference: str) -> str:
        return str(parse_reference(reference))

    def _row(self, model: Model) -> dict[str, Any]:
        worker = model.worker
        assert worker is not None
        return {
            "model": model.reference,
            "state": worker.state,
            "runtime": worker.info.get("runtime", ""),
            "requests": model.running,
            "waiting": model.waiting,
            "rss_bytes": worker.rss_bytes,
            "planned_bytes": worker.needed_bytes,
            "idle_seconds": 0.0 if model.running else time.monotonic() - model.used_at,
            "keep_alive": model.keep_alive,
            "pid": worker.pid,
            "info": worker.info,
        }
