"""Progress protocol: how long-running work reports, checkpoints and is cancelled.

The command line draws a bar, `jobs/` writes rows, a test records. Work is handed one `Progress` and calls it
often; `update` raises `Cancelled` when the watcher asked to stop, so a loop needs no check of its own.
"""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from ninestory.core.errors import Cancelled, NinestoryError


class Progress(Protocol):
    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        """Report `done` of `total` units. Raises `Cancelled` if the watcher asked to stop."""
        ...

    def event(self, kind: str, **data: Any) -> None:
        """A structured event kept in the log of the work (a metric, a warning, a finished file)."""
        ...

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Store `state` (plain JSON) durably; after a crash the work is handed it back as `resume`."""
        ...

    @property
    def resume(self) -> dict[str, Any] | None:
        """The last stored checkpoint, or None for a fresh start."""
        ...


class JobProgress(Progress, Protocol):
    """What a job's handler is given: it can put the job aside as well.

    Both methods unwind the handler, which must let `Suspended` pass. When the job is taken up again, the handler
    begins anew from its last checkpoint and comes to the same call.
    """

    def wait(self, reason: str) -> NoReturn:
        """Put the job aside until somebody wakes it (`JobStore.wake`). Whether it is time is the handler's to check."""
        ...

    def child(self, kind: str, params: dict[str, Any]) -> dict[str, Any] | None:
        """Start another job and put this one aside until that one is over; then return its result.

        A checkpoint stored after a result was returned must hold what the handler needs of it: the same call after
        that checkpoint starts a new job.

        Raises:
            NinestoryError: the child's own error, or Conflict "child_cancelled".
        """
        ...


class Suspended(NinestoryError):
    """Unwinds a handler whose job waits. Not a failure; a handler that catches it must raise it again."""

    default_code = "suspended"

    def __init__(self, reason: str, child: tuple[str, dict[str, Any]] | None = None) -> None:
        super().__init__(f"The job is put aside: {reason}.")
        self.reason, self.child = reason, child


class Silent:
    """A `Progress` that nobody watches."""

    resume: dict[str, Any] | None = None

    def __init__(self) -> None:
        self.cancelled = False

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        if self.cancelled:
            raise Cancelled("The work was cancelled.")

    def event(self, kind: str, **data: Any) -> None:
        pass

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.resume = state
