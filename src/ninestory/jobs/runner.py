"""Runs jobs: claims one, calls its kind's handler, beats while it works, ends the row or puts it aside.

Called by the job processes of the server (`serving/job_process.py`) and by the command line, which runs its own long
work as a row too. The handlers are handed in, and so is what makes a handler's context around a job's progress.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

from ninestory.core.artifacts import ArtifactStore
from ninestory.core.config import Settings
from ninestory.core.errors import Cancelled, Conflict, NinestoryError, from_dict
from ninestory.core.media import MediaSpool
from ninestory.core.paths import Home
from ninestory.core.progress import JobProgress, Progress, Suspended
from ninestory.core.state import State
from ninestory.jobs.store import Claim, Job, JobStore, LeaseLost
from ninestory.runtimes.protocol import EngineProvider, JobContext, JobHandler

ContextMaker = Callable[[JobProgress], JobContext]
Reservation = Callable[[Job, JobContext], AbstractContextManager[None]]

POLL_SECONDS = 0.5

log = logging.getLogger(__name__)


def context_maker(home: Home, settings: Settings, engines: EngineProvider, state: State) -> ContextMaker:
    """Build the function that makes the contexts of a process's jobs.

    Args:
        state: the home's, where artifacts are recorded. The spool deletes nothing: only the gateway knows what is used.
    """
    spool = MediaSpool(home.media, quota_bytes=int(settings.serve.media_quota_gb * 1e9))
    artifacts = ArtifactStore(state, spool, home.outputs)

    def make_context(progress: JobProgress) -> JobContext:
        return JobContext(home=home, settings=settings, progress=progress, engines=engines, artifacts=artifacts)

    return make_context


class ShuttingDown(NinestoryError):
    """The runner stops: unwinds the work, and the row goes back to the queue with its checkpoint."""

    default_code = "shutting_down"


class RowProgress:
    """A `JobProgress` that writes the job's row. A thread of its own beats, so the work may be silent for long.

    `update` only notes the numbers (the next beat stores them) and raises when the work has to stop: `Cancelled`,
    `LeaseLost`, `ShuttingDown`, or `Suspended` when the handler has caught it once already.
    """

    def __init__(self, store: JobStore, claim: Claim, stopping: threading.Event) -> None:
        self.resume: dict[str, Any] | None = claim.job.checkpoint
        self._store = store
        self._claim = claim
        self._stopping = stopping
        self._reported = (claim.job.done, claim.job.total, claim.job.message)
        self._cancelled = False
        self._lost: LeaseLost | None = None
        self.suspended: Suspended | None = None
        self.seen_children: list[str] = []  # whose results were returned since the claim and are in no checkpoint
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_over, name=f"beat-{claim.job.id}", daemon=True)
        self._thread.start()

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        self._reported = (done, total, message or self._reported[2])
        self._raise_if_stopped()

    def event(self, kind: str, **data: Any) -> None:
        self._raise_if_stopped()
        self._store.add_event(self._claim, kind, data)

    def checkpoint(self, state: dict[str, Any]) -> None:
        self._raise_if_stopped()
        self._cancelled |= self._store.checkpoint(self._claim, state, self.seen_children)
        self.resume = state
        self.seen_children.clear()
        self._raise_if_stopped()

    def wait(self, reason: str) -> NoReturn:
        self._raise_if_stopped()
        self.suspended = Suspended(reason)
        raise self.suspended

    def child(self, kind: str, params: dict[str, Any]) -> dict[str, Any] | None:
        self._raise_if_stopped()
        child = self._store.find_child(self._claim, kind, params, self.seen_children)
        if child is None or not child.is_over:
            self.suspended = Suspended(f"waiting for a job of kind {kind}", (kind, params))
            raise self.suspended
        self.seen_children.append(child.id)
        if child.error:
            raise from_dict(child.error)
        if child.state == "cancelled":
            raise Conflict(
                f"The {kind} job {child.id}, which this one waits for, was cancelled.",
                hint="Resume this job: it starts that one again.",
                hint_zh="请恢复此任务，它会重新启动该子任务。",
                code="child_cancelled",
            )
        return child.result

    def close(self) -> None:
        """Stop beating; the last numbers are stored if they can be."""
        self._over.set()
        self._thread.join()
        self._beat()

    def _raise_if_stopped(self) -> None:
        if self._lost:
            raise self._lost
        if self._cancelled:
            raise Cancelled("The job was cancelled.")
        if self._stopping.is_set():
            raise ShuttingDown("The job's process is shutting down.")
        if self.suspended:
            raise self.suspended

    def _beat_until_over(self) -> None:
        """Five beats a lease, so that two missed ones do no harm."""
        while not self._over.wait(min(self._store.lease_seconds / 5, 1.0)) and self._lost is None:
            self._beat()

    def _beat(self) -> None:
        try:
            self._cancelled |= self._store.beat(self._claim, *self._reported)
        except LeaseLost as lost:
            self._lost = lost
        except NinestoryError as fault:  # a full disk or a busy database: the next beat may do
            log.warning("job %s: beat failed: %s", self._claim.job.id, fault)


class TeeProgress:
    """A `JobProgress` that writes the row and shows the same to a second watcher, who may be slower or blind."""

    def __init__(self, row: RowProgress, watch: Progress) -> None:
        self._row, self._watch = row, watch

    @property
    def resume(self) -> dict[str, Any] | None:
        return self._row.resume

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        self._watch.update(done, total, message)
        self._row.update(done, total, message)

    def event(self, kind: str, **data: Any) -> None:
        self._watch.event(kind, **data)
        self._row.event(kind, **data)

    def checkpoint(self, state: dict[str, Any]) -> None:
        self._row.checkpoint(state)

    def wait(self, reason: str) -> NoReturn:
        self._row.wait(reason)

    def child(self, kind: str, params: dict[str, Any]) -> dict[str, Any] | None:
        return self._row.child(kind, params)


class JobRunner:
    """Runs jobs of the given kinds, one at a time.

    Args:
        handlers: what each kind does.
        make_context: builds a handler's context around the progress of its job.
        reserve: holds what a job needs of the machine while it runs; entered before its handler is called. What it
            raises ends the job.
    """

    def __init__(
        self,
        store: JobStore,
        handlers: Mapping[str, JobHandler],
        make_context: ContextMaker,
        reserve: Reservation = lambda job, context: nullcontext(),
    ) -> None:
        self.store = store
        self.handlers = handlers
        self._make_context = make_context
        self._reserve = reserve
        self._stopping = threading.Event()

    def run(self, job_id: str) -> Job | None:
        """Run that job here and return how it ended; None when another runner holds it."""
        claim = self.store.claim(list(self.handlers), job_id)
        return self._run(claim) if claim else None

    def run_new(self, kind: str, params: dict[str, Any], watch: Progress) -> Job:
        """Create a job and run it here with its children, in sight of `watch` too (a progress bar).

        Returns how it ended, or the job as it waits for something else than a child.
        """
        job = self._run(self.store.create_claimed(kind, params), watch)
        try:
            return self._follow(job, watch)
        except KeyboardInterrupt:
            if not self.store.get(job.id).is_over:  # it was a child that was interrupted
                self.store.cancel(job.id)
            raise

    def _follow(self, job: Job, watch: Progress) -> Job:
        """Run the children that a job waits for, and the job again, until it is over or waits for something else."""
        while not job.is_over and not self._stopping.is_set():
            unfinished = self.store.unfinished_children(job.id)
            if job.state == "waiting" and not unfinished:
                break
            claims = (self.store.claim(list(self.handlers), each.id) for each in (*unfinished, job))
            if claim := next(filter(None, claims), None):
                self._run(claim, watch)
            else:  # a server on this home was faster
                self._stopping.wait(POLL_SECONDS)
            job = self.store.get(job.id)
        return job

    def run_until_idle(self, idle_seconds: float) -> None:
        """Run every job there is, then wait for more until none has come for `idle_seconds` or `stop` is called."""
        last_work = time.monotonic()
        while not self._stopping.is_set():
            claim = self._claim()
            if claim:
                self._run(claim)
                last_work = time.monotonic()
            elif time.monotonic() - last_work < idle_seconds:
                self._stopping.wait(POLL_SECONDS)
            else:
                return

    def stop(self) -> None:
        """Unwind the running job at its next report; its row goes back to the queue. Safe in a signal handler."""
        self._stopping.set()

    def _claim(self) -> Claim | None:
        try:
            return self.store.claim(list(self.handlers))
        except NinestoryError as fault:  # a full disk: jobs wait until there is room
            log.warning("no job can be claimed: %s", fault)
            return None

    def _run(self, claim: Claim, watch: Progress | None = None) -> Job:
        log.info("job %s (%s) starts, attempt %d", claim.job.id, claim.job.kind, claim.job.attempts)
        progress = RowProgress(self.store, claim, self._stopping)
        try:
            try:
                context = self._make_context(TeeProgress(progress, watch) if watch else progress)
                with self._reserve(claim.job, context):
                    result = self.handlers[claim.job.kind](claim.job.params, context)
            finally:
                progress.close()
            self.store.finish(claim, "succeeded", result=result)
        except Suspended:
            self._end(claim, lambda: self._suspend(claim, progress))
        except LeaseLost:
            log.warning("job %s: another runner holds it; nothing more is written", claim.job.id)
        except ShuttingDown:
            self._end(claim, lambda: self.store.release(claim))
        except KeyboardInterrupt:
            self._end(claim, lambda: self.store.finish(claim, "cancelled"))
            raise
        except Cancelled:
            self._end(claim, lambda: self.store.finish(claim, "cancelled"))
        except Exception as error:
            failure = _typed(error)
            log.info("job %s failed: %s", claim.job.id, failure, exc_info=None if failure is error else error)
            self._end(claim, lambda: self.store.finish(claim, "failed", error=failure))
        return self.store.get(claim.job.id)

    def _suspend(self, claim: Claim, progress: RowProgress) -> None:
        suspended = progress.suspended
        assert suspended is not None
        if suspended.child:
            kind, params = suspended.child
            self.store.suspend_for_child(claim, suspended.reason, kind, params, progress.seen_children)
        else:
            self.store.suspend(claim, suspended.reason)

    def _end(self, claim: Claim, write: Callable[[], None]) -> None:
        try:
            write()
        except NinestoryError as fault:  # the lease runs out instead, and the job is taken up from its checkpoint
            log.warning("job %s: its end could not be written: %s", claim.job.id, fault)


def _typed(error: Exception) -> NinestoryError:
    """A failure the user can read; one that is not ours keeps its class name, and the log its traceback."""
    if isinstance(error, NinestoryError):
        return error
    return NinestoryError(
        f"The job failed: {type(error).__name__}: {error}",
        hint="The server's log holds the traceback; 'ninestory jobs resume ID' goes on from the last checkpoint.",
        hint_zh="服务日志中有完整的错误堆栈；ninestory jobs resume ID 可从上一个检查点继续。",
        code="job_failed",
    )
