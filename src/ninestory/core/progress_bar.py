"""A `Progress` that draws a bar on a terminal (stderr) or in a notebook."""

from __future__ import annotations

from typing import Any


class ProgressBar:
    """Drawn with Rich; use it as a context manager. `quiet` draws nothing; `counts`: units are things, not bytes."""

    resume: dict[str, Any] | None = None

    def __init__(self, quiet: bool = False, *, counts: bool = False) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        amount = MofNCompleteColumn() if counts else DownloadColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True, quiet=quiet))
        self._task = self._progress.add_task("", total=None, visible=False)  # until there is something to show

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, description=message[-40:], visible=True)

    def event(self, kind: str, **data: Any) -> None:
        self._progress.console.print(f"{kind}: " + ", ".join(f"{k} {v}" for k, v in data.items()))

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.resume = state
