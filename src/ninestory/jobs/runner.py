"""Runs jobs: claims one, calls its kind's function, beats while it works, ends the row.

Called by the job process of the server (`serving/job_process.py`) and by the command line, which runs its own long
work as a row too. The kinds are handed in: a table of names and functions `work(params, progress) -> result`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ninestory.core.errors import Cancelled, NinestoryError
from ninestory.core.progress import Progress
from ninestory.jobs.store import Claim, Job, JobStore, LeaseLost

Work = Callable[[dict[str, Any], Progress], dict[str, Any] | None]

POLL_SECONDS = 0.5

log = logging.getLogger(__name__)


class ShuttingDown(NinestoryError):
    """The runner stops: unwinds the work, and the row goes back to the queue with its checkpoint."""

    default_code = "shutting_down"


class RowProgress:
    """A `Progress` that writes the job's row. A thread of its own beats, so the work may be silent for long.

    `update` only notes the numbers (the next beat stores them) and raises when the work has to stop: `Cancelled`,
    `LeaseLost` or `ShuttingDown`.
    """

    def __init__(self, store: JobStore, claim: Claim, stopping: threading.Event) -> None:
        self.resume: dict[str, Any] | None = claim.job.checkpoint
        self._store = store
        self._claim = claim
        self._stopping = stopping
        self._reported = (claim.job.done, claim.job.total, claim.job.message)
        self._cancelled = False
        self._lost: LeaseLost | None = None
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
        self._cancelled |= self._store.checkpoint(self._claim, state)
        self.resume = state
        self._raise_if_stopped()

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


class Watched:
    """A `Progress` that writes the row and shows the same to a second watcher, who may be slower or blind."""

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


class JobRunner:
    """Runs jobs of the given kinds, one at a time."""

    def __init__(self, store: JobStore, kinds: Mapping[str, Work]) -> None:
        self.store = store
        self.kinds = kinds
        self._stopping = threading.Event()

    def run(self, job_id: str) -> Job | None:
        """Run that job here and return how it ended; None when another runner holds it."""
        claim = self.store.claim(list(self.kinds), job_id)
        return self._run(claim) if claim else None

    def run_new(self, kind: str, params: dict[str, Any], watch: Progress) -> Job:
        """Create a job and run it here, in sight of `watch` too (a progress bar); returns how it ended."""
        return self._run(self.store.create_claimed(kind, params), watch)

    def run_until_idle(self, idle_seconds: float) -> None:
        """Run every job there is, then wait for more until none has come for `idle_seconds` or `stop` is called."""
        last_work = time.monotonic()
        while not self._stopping.is_set() and time.monotonic() - last_work < idle_seconds:
            claim = self._claim()
            if claim:
                self._run(claim)
                last_work = time.monotonic()
            else:
                self._stopping.wait(POLL_SECONDS)

    def stop(self) -> None:
        """Unwind the running job at its next report; its row goes back to the queue. Safe in a signal handler."""
        self._stopping.set()

    def _claim(self) -> Claim | None:
        try:
            return self.store.claim(list(self.kinds))
        except NinestoryError as fault:  # a full disk: jobs wait until there is room
            log.warning("no job can be claimed: %s", fault)
            return None

    def _run(self, claim: Claim, watch: Progress | None = None) -> Job:
        log.info("job %s (%s) starts, attempt %d", claim.job.id, claim.job.kind, claim.job.attempts)
        progress = RowProgress(self.store, claim, self._stopping)
        try:
            try:
                result = self.kinds[claim.job.kind](claim.job.params, Watched(progress, watch) if watch else progress)
            finally:
                progress.close()
            self.store.finish(claim, "succeeded", result=result)
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
