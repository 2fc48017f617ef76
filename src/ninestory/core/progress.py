"""Progress protocol: how long-running work reports, checkpoints and is cancelled.

The command line draws a bar, `jobs/` writes rows, a test records. Work is handed one `Progress` and calls it
often; `update` raises `Cancelled` when the watcher asked to stop, so a loop needs no check of its own.
"""

from __future__ import annotations

from typing import Any, Protocol

from ninestory.core.errors import Cancelled


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
