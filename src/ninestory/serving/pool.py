"""All models of a server: started on demand, admitted by the memory plan, unloaded when idle, restarted after a crash.

What the routes call: `async for chunk in pool.run(reference, request)`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from ninestory.core.config import Settings
from ninestory.core.errors import Busy, DoesNotFit, NinestoryError, TimedOut, Unavailable
from ninestory.core.machine import available_bytes, cuda_cards
from ninestory.core.paths import Home
from ninestory.core.process import resident_bytes
from ninestory.core.tasks import Task
from ninestory.models.plan import RAM
from ninestory.models.reference import parse_reference
from ninestory.runtimes.load import check_task
from ninestory.runtimes.protocol import Chunk, EngineInfo, Request, chunk_from_dict
from ninestory.serving.references import requested
from ninestory.serving.supervisor import TimeLimit, WorkerProcess, request_payload

log = logging.getLogger("ninestory.pool")
_BACKOFF_FIRST, _BACKOFF_MOST, _HEALTHY_AFTER, _DEATHS = 0.5, 30.0, 60.0, 5
_DRAIN_SECONDS = 30.0
# Their length is the input's or the steps', so serve.request_timeout is the longest silence, not the longest request.
_LONG_KINDS = {"image", "upscale", "transcribe", "align", "speak"}


@dataclass
class Model:
    """One model that was asked for, with or without running workers.

    Attributes:
        overrides: RuntimeSettings of this model that differ from the server's.
        wanted: workers that share its requests.
        leases: holders that were promised it (jobs, floors); it is not unloaded under them.
        private: it was reserved with overrides, so it is not the one that is asked for by name.
    """

    reference: str
    keep_alive: float
    overrides: dict[str, Any] = field(default_factory=dict)
    workers: list[WorkerProcess] = field(default_factory=list)
    wanted: int = 1
    leases: int = 0
    private: bool = False
    running: int = 0
    waiting: int = 0
    free: asyncio.Condition = field(default_factory=asyncio.Condition)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    deaths: int = 0
    restart_at: float = 0.0
    used_at: float = field(default_factory=time.monotonic)

    @property
    def alive(self) -> list[WorkerProcess]:
        """Workers that take requests."""
        return [worker for worker in self.workers if worker.state in ("ready", "busy")]

    @property
    def idle(self) -> bool:
        """Whether it may be unloaded: it is loaded, and nobody uses it or was promised it."""
        return bool(self.alive) and not (self.running or self.waiting or self.leases)

    @property
    def info(self) -> EngineInfo | None:
        return next((worker.info for worker in self.workers if worker.info), None)

    @property
    def slots(self) -> int:
        return sum((worker.info.slots or 1) for worker in self.alive if worker.info) or 1


@dataclass(frozen=True)
class _Held:
    """Memory promised to a process that is no worker, of which it may have taken a part already."""

    needed: dict[str, int]  # by device
    pid: int

    @property
    def missing_bytes(self) -> int:
        """What it has yet to take of main memory."""
        return max(0, self.needed.get(RAM, 0) - resident_bytes(str(self.pid)))


class Pool:
    def __init__(self, settings: Settings, home: Home, on_change: Callable[[], None] = lambda: None) -> None:
        self._settings, self._home = settings, home
        self._models: dict[str, Model] = {}
        self._admission = asyncio.Lock()
        self._held: list[_Held] = []
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
        await asyncio.gather(*(worker.drain(timeout) for m in self._models.values() for worker in m.workers))

    # --- requests -----------------------------------------------------------------------------------------------

    async def run(
        self,
        reference: str,
        request: Request,
        *,
        overrides: Mapping[str, Any] | None = None,
        feed: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[Chunk]:
        """Run a request on a model, starting it first if need be; see `relay`."""
        payload = request_payload(request, live=feed is not None)
        written = self.relay(reference, request.kind, payload, overrides=overrides, feed=feed)
        try:
            async for chunk in written:
                yield chunk_from_dict(orjson.loads(chunk))
        finally:
            await written.aclose()  # type: ignore[attr-defined]

    async def relay(
        self,
        reference: str,
        kind: str,
        payload: bytes,
        *,
        overrides: Mapping[str, Any] | None = None,
        feed: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[bytes]:
        """Run a request that is written already (`request_payload`), and yield its chunks unread.

        A request of which nothing was sent yet is put back once when its worker dies; not one with live input, of
        which a part may be gone.

        Args:
            kind: of the request.
            overrides: of the model as it was reserved (`reserve`).

        Raises:
            Busy: too many requests wait for this model. DoesNotFit, NotFound, Unavailable, TimedOut, …
        """
        model = self._model(reference, overrides)
        limit = TimeLimit(
            time.monotonic(),
            self._settings.serve.request_timeout,
            self._too_long(),
            from_last_chunk=kind in _LONG_KINDS,
        )
        takes_slot = kind != "tokenize"  # which computes nothing, and is asked often beside long requests
        if takes_slot:
            await self._take_slot(model, limit)
        sent = False
        given: asyncio.Task[None] | None = None

        def give_slot() -> None:  # once: when the engine is done, or at the end of this iterator
            nonlocal given
            if takes_slot:
                given = given or asyncio.create_task(self._give_slot(model))

        try:
            for attempt in (1, 2):
                worker = await self._ready(model)
                if limit.from_last_chunk:  # the wait for a slot was no silence of the engine
                    limit = dataclasses.replace(limit, began=time.monotonic())
                chunks = worker.relay(payload, give_slot, limit, feed)
                try:
                    async for chunk in chunks:
                        sent = True
                        yield chunk
                    return
                except Unavailable as error:
                    if error.code != "worker_died" or sent or feed is not None or attempt == 2:
                        raise
                    log.warning("worker of %s died before it answered: trying once more", reference)
                finally:
                    await chunks.aclose()  # type: ignore[attr-defined]
        finally:
            give_slot()
            if given is not None:
                await asyncio.shield(given)

    def _too_long(self) -> TimedOut:
        seconds = self._settings.serve.request_timeout
        return TimedOut(
            f"The request took longer than {seconds:g} s.",
            hint="Ask for fewer tokens, or raise serve.request_timeout.",
            hint_zh="请减少 max_tokens，或调大 serve.request_timeout。",
        )

    async def _take_slot(self, model: Model, limit: TimeLimit) -> None:
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
                await asyncio.wait_for(wait, limit.seconds)
                model.running += 1
        except TimeoutError:
            raise limit.error from None
        finally:
            model.waiting -= 1
        self._on_change()

    async def _give_slot(self, model: Model) -> None:
        async with model.free:
            model.running -= 1
            model.used_at = time.monotonic()
            model.free.notify_all()
        self._on_change()
        used = model.running or model.waiting or model.leases or model.starting.locked()
        if not model.workers and not used and model.restart_at < time.monotonic():
            self._forget(model)  # a name nobody has, or a model unloaded meanwhile
        elif model.keep_alive == 0 and model.idle:
            await self._unload(model)

    # --- loading ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def reserve(
        self,
        reference: str,
        task: Task,
        *,
        workers: int = 1,
        overrides: Mapping[str, Any] | None = None,
        trusted: bool = False,
    ) -> AsyncIterator[EngineInfo]:
        """Keep a model loaded, in `workers` processes, as long as the block runs; memory counts all of them.

        Args:
            trusted: the reference comes from this home's own data, not from a request: it may be a path.

        Raises:
            Unsupported: the model has no such task. DoesNotFit: not all of the workers fit.
        """
        model = self._model(reference, overrides, trusted=trusted)
        model.leases += 1
        model.wanted = max(model.wanted, workers)
        try:
            await self._ready(model)
            assert model.info is not None
            check_task(model.reference, model.info.architecture, model.info.tasks, task)
            yield dataclasses.replace(model.info, slots=model.slots)
        finally:
            model.leases -= 1
            model.used_at = time.monotonic()
            if not model.leases:
                await self._shrink(model)
            if model.private and model.idle:
                await self._unload(model)

    @asynccontextmanager
    async def hold(self, needed: Mapping[str, int], pid: int, *, force: bool = False) -> AsyncIterator[None]:
        """Count the memory that a job takes in its own process, as long as the block runs; idle models make room.

        Args:
            needed: bytes by device ("ram", "cuda:0", …).
            pid: the process that takes it.
            force: count it although it does not fit.

        Raises:
            DoesNotFit: models that are in use, or other jobs, leave too little.
        """
        held = _Held(dict(needed), pid)
        async with self._admission:
            lacks = await self._make_room(needed)
            if lacks and not force:
                raise _does_not_fit(
                    "The job",
                    lacks,
                    needed,
                    hint="Unload a model that is in use, wait for another job to end, or change the job so that it "
                    "needs less: 'ninestory tune run --dry-run' shows a run's plan.",
                    hint_zh="请卸载正在使用的模型、等待其他任务结束，或减小任务所需内存："
                    "ninestory tune run --dry-run 可查看训练的内存计划。",
                )
            self._held.append(held)
        try:
            yield
        finally:
            self._held.remove(held)

    async def _shrink(self, model: Model) -> None:
        """Back to one worker when nobody is promised more."""
        model.wanted = 1
        async with model.starting:
            surplus, model.workers = model.workers[1:], model.workers[:1]
        if surplus:
            await asyncio.gather(*(worker.drain(_DRAIN_SECONDS) for worker in surplus))
            self._on_change()

    async def load(
        self, reference: str, keep_alive: float | None = None, overrides: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Load a model, or load it anew when it was loaded otherwise.

        Args:
            overrides: fields of RuntimeSettings for this model (template, dtype, fast); those left out stay as they
                are.
        """
        model = self._model(reference)
        if keep_alive is not None:
            model.keep_alive = keep_alive
        before, wanted = model.overrides, {**model.overrides, **(overrides or {})}
        if wanted != before:
            model.overrides = wanted
            await self.unload(reference)
        try:
            await self._ready(model)
        except NinestoryError:
            model.overrides = before  # a wrong name must not stay with the model
            raise
        return self._row(model)

    async def unload(self, reference: str) -> bool:
        """Stop a model's workers when their requests are done; True when there was one."""
        model = self._models.get(self._key(reference))
        return False if model is None else await self._unload(model)

    async def _unload(self, model: Model) -> bool:
        if not model.workers:
            return False
        async with model.starting:
            workers, model.workers = model.workers, []
            await asyncio.gather(*(worker.drain(_DRAIN_SECONDS) for worker in workers))
        self._on_change()
        return bool(workers)

    def loaded(self) -> list[dict[str, Any]]:
        """What runs now, for `ps`."""
        return [self._row(m) for m in self._models.values() if m.workers]

    def engine_info(self, reference: str) -> EngineInfo | None:
        model = self._models.get(self._key(reference))
        return model.info if model else None

    def slots(self, reference: str) -> int:
        """Requests that a model works on together; 1 before it is loaded."""
        model = self._models.get(self._key(reference))
        return model.slots if model else 1

    async def _ready(self, model: Model) -> WorkerProcess:
        """The worker that has least to do, after those that are missing have been started."""
        async with model.starting:
            for worker in [worker for worker in model.workers if worker.state == "dead"]:
                self._count_death(model, worker)
            waits = model.alive and model.restart_at > time.monotonic()  # the others go on meanwhile
            while len(model.alive) < model.wanted and not waits:
                await self._start(model)
            return min(model.alive, key=lambda worker: worker.active)

    def _count_death(self, model: Model, worker: WorkerProcess) -> None:
        model.workers.remove(worker)
        healthy = time.monotonic() - worker.started_at > _HEALTHY_AFTER
        model.deaths = 1 if healthy else model.deaths + 1
        backoff = min(_BACKOFF_FIRST * 2 ** (model.deaths - 1), _BACKOFF_MOST)
        model.restart_at = time.monotonic() + backoff
        if model.deaths >= _DEATHS:
            error = worker.death()
            model.deaths = 0
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
        named = {name: value for name, value in model.overrides.items() if value != ""}
        runtime = dataclasses.replace(self._settings.runtime, **named)
        if model.wanted > 1:  # several processes share the processors
            runtime = dataclasses.replace(runtime, threads=1)
        worker = WorkerProcess(model.reference, runtime, self._home.root)
        model.workers.append(worker)
        self._on_change()
        try:
            await worker.resolve(timeout)
            async with self._admission:
                if lacks := await self._make_room(worker.needed, worker):
                    raise _does_not_fit(
                        worker.reference,
                        lacks,
                        worker.needed,
                        hint="Unload another model, lower --context or --slots, or choose a smaller variant "
                        "(ninestory plan).",
                        hint_zh="请卸载其他模型、减小 --context 或 --slots，或选择更小的变体（ninestory plan）。",
                    )
                await worker.load(timeout)
        except (NinestoryError, asyncio.CancelledError) as error:
            worker.kill()
            if not (isinstance(error, Unavailable) and error.code == "worker_died"):
                model.workers.remove(worker)  # refused, not crashed
            self._on_change()
            raise
        log.info("loaded %s in %.1f s", model.reference, time.monotonic() - worker.started_at)
        async with model.free:
            model.free.notify_all()
        self._on_change()

    async def _make_room(
        self, needed: Mapping[str, int], newcomer: WorkerProcess | None = None
    ) -> tuple[str, int] | None:
        """Evict idle models until every device has what is needed of it.

        Returns:
            None, or a device that has too little even so, and what it has free.
        """
        while lacks := await self._lacking(needed, newcomer):
            if not await self._evict(lacks[0], but=newcomer):
                return lacks
        return None

    async def _evict(self, device: str, but: WorkerProcess | None = None) -> bool:
        """Unload the idle model used least recently that takes memory of `device`; False when there is none."""
        idle = [m for m in self._models.values() if m.idle and but not in m.workers]
        if device != RAM:
            idle = [m for m in idle if any(device in worker.needed for worker in m.workers)]
        if not idle:
            return False
        victim = min(idle, key=lambda m: m.used_at)
        log.info("evicting %s to make room on %s", victim.reference, device)
        evicted, victim.workers = victim.workers, []
        await asyncio.gather(*(worker.drain(_DRAIN_SECONDS) for worker in evicted))
        self._on_change()
        return True

    async def _lacking(self, needed: Mapping[str, int], newcomer: WorkerProcess | None) -> tuple[str, int] | None:
        """The first device that has less free than is needed of it, and what it has free; None when all fits."""
        cards = await asyncio.to_thread(cuda_cards) if set(needed) - {RAM} else {}
        for device, nbytes in needed.items():
            if device == RAM:
                free = self._free_ram(newcomer)
            elif device in cards:
                # The driver does not count what a model has yet to fill, nor the plan what other programs take.
                card = cards[device]
                free = min(card.free_bytes, card.total_bytes - self._promised(device, newcomer))
            else:
                free = 0
            if nbytes > free:
                return device, free
        return None

    def _free_ram(self, newcomer: WorkerProcess | None = None) -> int:
        """Memory that models and jobs may still take."""
        limit = int(self._settings.serve.memory_limit_mb * (1 << 20))
        if limit:
            return limit - self._promised(RAM, newcomer)
        return available_bytes() - sum(held.missing_bytes for held in self._held)

    def _promised(self, device: str, newcomer: WorkerProcess | None) -> int:
        """Bytes of a device that the plans of jobs and of the other running workers need."""
        others = (worker for m in self._models.values() for worker in m.alive if worker is not newcomer)
        jobs = sum(held.needed.get(device, 0) for held in self._held)
        return jobs + sum(worker.needed.get(device, 0) for worker in others)

    async def _watch_workers(self) -> None:
        """Once a second: end the workers that were stopped, unload the models that have been idle for long enough."""
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for model in list(self._models.values()):
                for worker in model.workers:
                    worker.end_if_stopped()
                if model.idle and 0 <= model.keep_alive < now - model.used_at:
                    log.info("unloading %s after %.0f idle seconds", model.reference, now - model.used_at)
                    await self._unload(model)

    # --- names --------------------------------------------------------------------------------------------------

    def _model(self, reference: str, overrides: Mapping[str, Any] | None = None, *, trusted: bool = False) -> Model:
        """The entry of a model; `trusted` as in `reserve`."""
        key = place = self._key(reference)
        if overrides:  # beside the one that is asked for by its name alone
            place = f"{key} {sorted(overrides.items())}"
        if place not in self._models:
            if not trusted:
                requested(reference, self._home, self._settings.serve.preload)
            self._models[place] = Model(
                key, self._settings.serve.keep_alive, dict(overrides or {}), private=bool(overrides)
            )
        return self._models[place]

    def _forget(self, model: Model) -> None:
        self._models = {place: other for place, other in self._models.items() if other is not model}

    @staticmethod
    def _key(reference: str) -> str:
        return str(parse_reference(reference))

    def _row(self, model: Model) -> dict[str, Any]:
        info = model.info
        return {
            "model": model.reference,
            "state": model.workers[0].state,
            "runtime": info.runtime if info else "",
            "requests": model.running,
            "waiting": model.waiting,
            "workers": len(model.workers),
            "rss_bytes": sum(worker.rss_bytes for worker in model.workers),
            "planned_bytes": sum(worker.needed_bytes for worker in model.workers),
            "idle_seconds": 0.0 if model.running else time.monotonic() - model.used_at,
            "keep_alive": model.keep_alive,
            "pid": model.workers[0].pid,
            "info": dataclasses.asdict(info) if info else {},
        }


def _does_not_fit(
    who: str, lacks: tuple[str, int], needed: Mapping[str, int], *, hint: str, hint_zh: str
) -> DoesNotFit:
    device, free = lacks
    place = "" if device == RAM else f" on {device}"
    return DoesNotFit(
        f"{who} needs about {needed[device] >> 20} MB{place} and {free >> 20} MB are free.",
        hint=hint,
        hint_zh=hint_zh,
        device=device,
        needed_bytes=needed[device],
        free_bytes=free,
    )
