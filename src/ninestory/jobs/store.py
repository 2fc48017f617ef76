"""Jobs as rows: create, claim, beat, finish, cancel, resume, list, and the log of what each one reported.

A runner holds a job by a lease under an owner name of its own, one a claim. Every write of a runner names that owner
and needs the lease; a runner that lost it gets `LeaseLost` and has written nothing. So a job killed at any moment is
taken up again by whoever claims next, and never finished twice. The store knows no kind: what a job does is known to
`jobs/runner.py`'s caller.

A job may suspend itself until its child, another job, is over, or until somebody calls `wake`. Its row then waits
without a runner. A trigger wakes the parent in the statement that ends the child, however the child ends.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ninestory.core.errors import Conflict, NinestoryError, NotFound
from ninestory.core.state import State

JobState = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]

LEASE_SECONDS = 10.0  # at least three beats; on the wall clock, so a suspended laptop only costs a resume
_FAULTS_OF_THE_REQUEST = ("InvalidRequest", "ContextOverflow", "NotFound", "Unsupported")  # the same at every attempt
# A lease is over when its time has come, or when it ends later than any lease given now could: the clock was set back,
# and a living runner writes it anew with its next beat.
_LEASE_IS_OVER = "(lease_until < :now OR lease_until > :now + 2 * :lease)"
MAX_ATTEMPTS = 5  # claims without a new checkpoint in between, before a job that kills its runner is given up

SCHEMA = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        params TEXT NOT NULL,
        owner TEXT,
        lease_until REAL NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        done REAL NOT NULL DEFAULT 0,
        total REAL,
        message TEXT NOT NULL DEFAULT '',
        checkpoint TEXT,
        result TEXT,
        error TEXT,
        created_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        updated_at REAL NOT NULL
    ) STRICT;
    CREATE INDEX jobs_state ON jobs (state, number);
    CREATE INDEX jobs_updated ON jobs (updated_at);
    CREATE TABLE job_events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        time REAL NOT NULL,
        kind TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX job_events_job ON job_events (job, seq);
    """,
    """
    ALTER TABLE jobs ADD COLUMN parent TEXT REFERENCES jobs (id) ON DELETE CASCADE;
    ALTER TABLE jobs ADD COLUMN collected INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN woken INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN subject TEXT;
    CREATE INDEX jobs_parent ON jobs (parent);
    CREATE TRIGGER jobs_child_over AFTER UPDATE OF state ON jobs
    WHEN NEW.parent IS NOT NULL AND NEW.state IN ('succeeded', 'failed', 'cancelled')
    BEGIN
        UPDATE jobs SET state = 'queued', updated_at = NEW.updated_at
        WHERE id = NEW.parent AND state = 'waiting' AND cancel_requested = 0;
    END;
    """,
)

_CLAIMABLE = f"""
    kind IN (SELECT value FROM json_each(:kinds))
    AND (state = 'queued' OR (state = 'running' AND {_LEASE_IS_OVER} AND cancel_requested = 0))
    AND NOT EXISTS (SELECT 1 FROM (SELECT * FROM jobs WHERE state = 'running' AND NOT {_LEASE_IS_OVER}) AS other
                    WHERE other.kind = jobs.kind AND other.subject = jobs.subject AND other.id != jobs.id)"""

_CLAIM = f"""
    UPDATE jobs SET state = 'running', owner = :owner, lease_until = :now + :lease, attempts = attempts + 1,
                    woken = 0, started_at = COALESCE(started_at, :now), updated_at = :now
    WHERE number = (SELECT number FROM jobs WHERE {_CLAIMABLE} AND (:id IS NULL OR id = :id)
                    ORDER BY number LIMIT 1)
    RETURNING *"""

_BEAT = """
    UPDATE jobs SET lease_until = :now + :lease, updated_at = :now, done = :done, total = :total, message = :message
    WHERE id = :id AND owner = :owner AND state = 'running' RETURNING cancel_requested"""

_CHECKPOINT = """
    UPDATE jobs SET lease_until = :now + :lease, updated_at = :now, checkpoint = :checkpoint, attempts = 1
    WHERE id = :id AND owner = :owner AND state = 'running' RETURNING cancel_requested"""

_FINISH = """
    UPDATE jobs SET state = :state, owner = NULL, result = :result, error = :error, finished_at = :now,
                    updated_at = :now, done = CASE WHEN :state = 'succeeded' THEN COALESCE(total, done) ELSE done END
    WHERE id = :id AND owner = :owner AND state = 'running' RETURNING id"""

_RELEASE = """
    UPDATE jobs SET state = 'queued', owner = NULL, lease_until = 0, attempts = attempts - 1, updated_at = :now
    WHERE id = :id AND owner = :owner AND state = 'running' RETURNING id"""

_SUSPEND = """
    UPDATE jobs SET state = CASE WHEN cancel_requested THEN 'cancelled' WHEN woken OR :ready THEN 'queued'
                                 ELSE 'waiting' END,
                    finished_at = CASE WHEN cancel_requested THEN :now END, owner = NULL, lease_until = 0,
                    attempts = MAX(attempts - 1, 0), message = :reason, updated_at = :now
    WHERE id = :id AND owner = :owner AND state = 'running' RETURNING *"""

_FAMILY = """
    WITH RECURSIVE family (id) AS (SELECT :id UNION SELECT jobs.id FROM jobs JOIN family ON jobs.parent = family.id)"""

_SWEEP_CANCELLED = f"""
    UPDATE jobs SET state = 'cancelled', owner = NULL, finished_at = :now, updated_at = :now
    WHERE state = 'running' AND {_LEASE_IS_OVER} AND cancel_requested = 1"""

_SWEEP_FATAL = f"""
    UPDATE jobs SET state = 'failed', owner = NULL, finished_at = :now, updated_at = :now, error = :error
    WHERE state = 'running' AND {_LEASE_IS_OVER} AND attempts >= :attempts"""

_EVENT = """
    INSERT INTO job_events (job, time, kind, data)
    SELECT :id, :now, :kind, :data FROM jobs WHERE id = :id AND owner = :owner AND state = 'running' RETURNING seq"""


class LeaseLost(NinestoryError):
    """Another runner holds the job now (this one was suspended or starved): stop and write nothing."""

    default_code = "lease_lost"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row. `done` of `total` is in the unit of the kind; `checkpoint` is what the work stored last.

    Attributes:
        parent: id of the job that this one was started by and that waits for it.
        subject: what it works on; two jobs of one kind and subject never run together.
    """

    id: str
    kind: str
    state: JobState
    params: dict[str, Any]
    done: float
    total: float | None
    message: str
    attempts: int
    cancel_requested: bool
    checkpoint: dict[str, Any] | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    updated_at: float
    parent: str | None = None
    subject: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def resumable(self) -> bool:
        """Whether running it again can succeed: it was cancelled, or failed by something else than its own request."""
        return self.state == "cancelled" or (
            self.state == "failed" and (self.error is None or self.error["type"] not in _FAULTS_OF_THE_REQUEST)
        )


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One line of a job's log; `seq` counts over all jobs, so a reader asks for what came after the last it saw."""

    seq: int
    job: str
    time: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """A job held by a lease."""

    job: Job
    owner: str


class JobStore:
    """The jobs of a home. Safe to use from many threads and processes at once.

    Args:
        holder: what the owners of this process's claims begin with, for whoever watches over the process.
    """

    def __init__(
        self,
        state: State,
        *,
        lease_seconds: float = LEASE_SECONDS,
        max_attempts: int = MAX_ATTEMPTS,
        holder: str = "",
    ) -> None:
        self.state = state
        self.holder = holder or secrets.token_hex(8)
        self.lease_seconds = lease_seconds
        self.max_attempts = max_attempts
        state.migrate("jobs", SCHEMA)

    # --- asking for work ---------------------------------------------------------------------------------------

    def create(self, kind: str, params: dict[str, Any], *, subject: str | None = None) -> Job:
        """Queue a job.

        Args:
            subject: what it works on; it waits in the queue while another job of this kind works on the same.
        """
        return self._create(kind, params, subject=subject)

    def _create(
        self, kind: str, params: dict[str, Any], *, subject: str | None = None, parent: str | None = None
    ) -> Job:
        now = time.time()
        rows = self.state.execute(
            "INSERT INTO jobs (id, kind, state, params, subject, parent, created_at, updated_at) "
            "VALUES (?, ?, 'queued', ?, ?, ?, ?, ?) RETURNING *",
            (f"job_{secrets.token_hex(12)}", kind, _as_json(params), subject, parent, now, now),
        )
        return _job(rows[0])

    def create_claimed(self, kind: str, params: dict[str, Any]) -> Claim:
        """A job that its creator runs itself: no other runner can take it before."""
        with self.state.transaction():
            claim = self.claim([kind], self.create(kind, params).id)
        assert claim is not None
        return claim

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        rows = self.state.execute("SELECT * FROM jobs WHERE id = ?", (job_id,))
        if not rows:
            raise NotFound(
                f"There is no job {job_id[:80]!r}.",
                hint="'ninestory jobs ls' lists them.",
                hint_zh="运行 ninestory jobs ls 查看全部任务。",
                code="job_not_found",
            )
        return _job(rows[0])

    def list(
        self, *, state: str | None = None, kind: str | None = None, after: str | None = None, limit: int = 50
    ) -> Sequence[Job]:
        """Newest first; `after` is the id of the last one of the page before."""
        rows = self.state.execute(
            "SELECT * FROM jobs WHERE (:state IS NULL OR state = :state) AND (:kind IS NULL OR kind = :kind) "
            "AND (:after IS NULL OR number < (SELECT number FROM jobs WHERE id = :after)) "
            "ORDER BY number DESC LIMIT :limit",
            {"state": state, "kind": kind, "after": after, "limit": limit},
        )
        return [_job(row) for row in rows]

    def changed_since(self, moment: float) -> Sequence[Job]:
        """Jobs whose row changed at or after `moment` (Unix seconds)."""
        return [
            _job(row)
            for row in self.state.execute("SELECT * FROM jobs WHERE updated_at >= ? ORDER BY updated_at", (moment,))
        ]

    def cancel(self, job_id: str) -> Job:
        """Cancel a job and its children: at once where none runs it, else within a beat of its runner.

        Raises:
            NotFound, Conflict: it is already over.
        """
        with self.state.transaction():
            job = self.get(job_id)
            if job.is_over:
                raise _wrong_state(job, "cancelled", "job_finished", "Only a job that is not over can be.")
            values = {"id": job_id, "now": time.time()}
            self.state.execute(  # first all are asked, so that no child's end wakes a parent
                f"{_FAMILY} UPDATE jobs SET cancel_requested = 1, updated_at = :now "
                "WHERE id IN family AND state IN ('queued', 'running', 'waiting')",
                values,
            )
            self.state.execute(
                f"{_FAMILY} UPDATE jobs SET state = 'cancelled', finished_at = :now "
                "WHERE id IN family AND state IN ('queued', 'waiting')",
                values,
            )
            return self.get(job_id)

    def resume(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again; it is handed its last checkpoint.

        Its children that failed or were cancelled, and whose results it would ask for, are queued again too.

        Raises:
            NotFound, Conflict: it is not over, or has succeeded.
        """
        with self.state.transaction():
            job = self.get(job_id)
            if job.state not in ("failed", "cancelled"):
                raise _wrong_state(job, "resumed", "job_not_resumable", "Only a failed or cancelled job can be.")
            self.state.execute(
                f"{_FAMILY} UPDATE jobs SET state = 'queued', cancel_requested = 0, attempts = 0, error = NULL, "
                "finished_at = NULL, lease_until = 0, updated_at = :now "
                "WHERE id IN family AND state IN ('failed', 'cancelled') AND (id = :id OR collected = 0)",
                {"id": job_id, "now": time.time()},
            )
            return self.get(job_id)

    def wake(self, job_id: str) -> None:
        """Queue a job that waits; one that is about to wait will not. A job in any other state is left alone."""
        self.state.execute(
            "UPDATE jobs SET woken = 1, state = CASE state WHEN 'waiting' THEN 'queued' ELSE state END, "
            "updated_at = ? WHERE id = ? AND state IN ('waiting', 'running')",
            (time.time(), job_id),
        )

    def remove(self, job_id: str) -> None:
        """Forget a job that is over, with its log and its children.

        Raises:
            NotFound, Conflict: it is not over.
        """
        rows = self.state.execute(
            "DELETE FROM jobs WHERE id = ? AND state IN ('succeeded', 'failed', 'cancelled') RETURNING id", (job_id,)
        )
        if not rows:
            raise _wrong_state(self.get(job_id), "deleted", "job_active", "Cancel it first.")

    def events(self, job_id: str | None = None, *, after_seq: int = 0, limit: int = 1000) -> Sequence[JobEvent]:
        """The log of one job, or of all, in order."""
        rows = self.state.execute(
            "SELECT * FROM job_events WHERE seq > :seq AND (:job IS NULL OR job = :job) ORDER BY seq LIMIT :limit",
            {"seq": after_seq, "job": job_id, "limit": limit},
        )
        return [_job_event(row) for row in rows]

    def newest_events(self, job_id: str, kind: str, limit: int) -> Sequence[JobEvent]:
        """The newest lines of one kind in a job's log, newest first."""
        rows = self.state.execute(
            "SELECT * FROM job_events WHERE job = ? AND kind = ? ORDER BY seq DESC LIMIT ?", (job_id, kind, limit)
        )
        return [_job_event(row) for row in rows]

    def last_seq(self) -> int:
        """The number of the newest event of all jobs; 0 before the first."""
        return self.state.execute("SELECT COALESCE(MAX(seq), 0) AS seq FROM job_events")[0]["seq"]

    def unfinished_children(self, job_id: str) -> Sequence[Job]:
        """The children of a job that are not over, oldest first."""
        rows = self.state.execute(
            "SELECT * FROM jobs WHERE parent = ? AND state IN ('queued', 'running', 'waiting') ORDER BY number",
            (job_id,),
        )
        return [_job(row) for row in rows]

    def count_claimable(self, kinds: Sequence[str]) -> int:
        """Count the jobs of these kinds that `claim` could take now."""
        rows = self.state.execute(
            f"SELECT COUNT(*) AS jobs FROM jobs WHERE {_CLAIMABLE}",
            {"now": time.time(), "lease": self.lease_seconds, "kinds": json.dumps([*kinds])},
        )
        return int(rows[0]["jobs"])

    def is_held(self, holder: str) -> bool:
        """Whether a process runs a job."""
        return bool(
            self.state.execute(
                "SELECT 1 FROM jobs WHERE state = 'running' AND substr(owner, 1, ?) = ? LIMIT 1",
                (len(holder) + 1, f"{holder}-"),
            )
        )

    # --- doing it ----------------------------------------------------------------------------------------------

    def claim(self, kinds: Sequence[str], job_id: str | None = None) -> Claim | None:
        """Take the oldest queued job of these kinds (or that one), or one whose runner's lease ran out."""
        now = time.time()
        self._sweep(now)
        owner = f"{self.holder}-{secrets.token_hex(8)}"
        rows = self.state.execute(
            _CLAIM,
            {"owner": owner, "now": now, "lease": self.lease_seconds, "kinds": json.dumps([*kinds]), "id": job_id},
        )
        return Claim(_job(rows[0]), owner) if rows else None

    def _sweep(self, now: float) -> None:
        """End the jobs of dead runners that must not be taken up again."""
        self.state.execute(_SWEEP_CANCELLED, {"now": now, "lease": self.lease_seconds})
        error = NinestoryError(
            f"The job's process died {self.max_attempts} times without getting further.",
            hint="Its log ('ninestory jobs logs ID') shows how far it came; not enough memory is the usual cause.",
            hint_zh="请查看其日志（ninestory jobs logs ID）；常见原因是内存不足。",
            code="job_kept_dying",
        )
        self.state.execute(
            _SWEEP_FATAL,
            {
                "now": now,
                "lease": self.lease_seconds,
                "attempts": self.max_attempts,
                "error": json.dumps(error.as_dict()),
            },
        )

    def end_leases(self, holder: str) -> None:
        """Let the jobs of a process that is known to be dead be taken up at once; it must not live any more."""
        self.state.execute(
            "UPDATE jobs SET lease_until = 0 WHERE state = 'running' AND substr(owner, 1, ?) = ?",
            (len(holder) + 1, f"{holder}-"),
        )

    def beat(self, claim: Claim, done: float, total: float | None, message: str) -> bool:
        """Extend the lease and store the progress; True when the job was asked to stop. Raises LeaseLost."""
        values = {"done": done, "total": total, "message": message}
        return bool(self._write(_BEAT, claim, **values)["cancel_requested"])

    def checkpoint(self, claim: Claim, state: dict[str, Any], collected: Sequence[str] = ()) -> bool:
        """Store `state` for whoever takes the job up next; True when the job was asked to stop.

        Args:
            collected: ids of children whose results `state` holds: they are not given again.

        Raises:
            LeaseLost.
        """
        with self.state.transaction():
            row = self._write(_CHECKPOINT, claim, checkpoint=json.dumps(state))
            if collected:
                self.state.execute(
                    "UPDATE jobs SET collected = 1 WHERE id IN (SELECT value FROM json_each(?))",
                    (json.dumps([*collected]),),
                )
        return bool(row["cancel_requested"])

    def find_child(self, claim: Claim, kind: str, params: dict[str, Any], seen: Collection[str] = ()) -> Job | None:
        """The oldest child of this kind and parameters whose result was not collected and is not among `seen`."""
        rows = self.state.execute(
            "SELECT * FROM jobs WHERE parent = :parent AND kind = :kind AND params = :params AND collected = 0 "
            "AND id NOT IN (SELECT value FROM json_each(:seen)) ORDER BY number LIMIT 1",
            {"parent": claim.job.id, "kind": kind, "params": _as_json(params), "seen": json.dumps([*seen])},
        )
        return _job(rows[0]) if rows else None

    def suspend(self, claim: Claim, reason: str) -> Job:
        """Put the job aside until `wake`; it is queued at once if that came since its claim. Raises LeaseLost."""
        return _job(self._write(_SUSPEND, claim, reason=reason, ready=False))

    def suspend_for_child(
        self, claim: Claim, reason: str, kind: str, params: dict[str, Any], seen: Collection[str] = ()
    ) -> Job:
        """Put the job aside until its child is over, in one transaction with the child's start.

        The child is the one that `find_child` finds, else a new one. If it is over by now, the job is queued at once;
        if the job was asked to stop, it is cancelled and no child is started. Raises LeaseLost.
        """
        with self.state.transaction():
            child = self.find_child(claim, kind, params, seen)
            job = _job(self._write(_SUSPEND, claim, reason=reason, ready=child and child.is_over))
            if child is None and not job.is_over:
                self._create(kind, params, parent=claim.job.id)
            return job

    def add_event(self, claim: Claim, kind: str, data: dict[str, Any]) -> int:
        """Add a line to the job's log and return its number. Raises LeaseLost."""
        return self._write(_EVENT, claim, kind=kind, data=_as_json(data))["seq"]

    def finish(
        self,
        claim: Claim,
        state: Literal["succeeded", "failed", "cancelled"],
        *,
        result: dict[str, Any] | None = None,
        error: NinestoryError | None = None,
    ) -> None:
        """End the job. Raises LeaseLost: someone else runs it, so it is theirs to end."""
        self._write(
            _FINISH,
            claim,
            state=state,
            result=None if result is None else _as_json(result),
            error=None if error is None else _as_json(error.as_dict()),
        )

    def release(self, claim: Claim) -> None:
        """Give the job back unfinished (an orderly shutdown); the next runner starts from its checkpoint."""
        self._write(_RELEASE, claim)

    def _write(self, sql: str, claim: Claim, **values: Any) -> sqlite3.Row:
        now = time.time()
        rows = self.state.execute(
            sql, {"id": claim.job.id, "owner": claim.owner, "now": now, "lease": self.lease_seconds, **values}
        )
        if not rows:
            raise LeaseLost(f"The lease of job {claim.job.id} was lost.")
        return rows[0]


def _as_json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False)


def _job_event(row: sqlite3.Row) -> JobEvent:
    return JobEvent(seq=row["seq"], job=row["job"], time=row["time"], kind=row["kind"], data=json.loads(row["data"]))


def _job(row: sqlite3.Row) -> Job:
    def parsed(name: str) -> Any:
        return None if row[name] is None else json.loads(row[name])

    return Job(
        id=row["id"],
        kind=row["kind"],
        state=row["state"],
        params=parsed("params"),
        done=row["done"],
        total=row["total"],
        message=row["message"],
        attempts=row["attempts"],
        cancel_requested=bool(row["cancel_requested"]),
        checkpoint=parsed("checkpoint"),
        result=parsed("result"),
        error=parsed("error"),
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        updated_at=row["updated_at"],
        parent=row["parent"],
        subject=row["subject"],
    )


def _wrong_state(job: Job, wanted: str, code: str, hint: str) -> Conflict:
    hints_zh = {
        "job_finished": "只能取消尚未结束的任务。",
        "job_not_resumable": "只能恢复失败或已取消的任务。",
        "job_active": "请先取消该任务。",
    }
    return Conflict(
        f"Job {job.id} is {job.state} and cannot be {wanted}.", hint=hint, hint_zh=hints_zh[code], code=code
    )
