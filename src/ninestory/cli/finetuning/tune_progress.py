"""The bar of a tuning run: steps, loss, tokens a second, time left and the memory of this process."""

from __future__ import annotations

from typing import Any


class StepBar:
    """A `Progress` on the terminal (stderr). `quiet` draws nothing."""

    resume: dict[str, Any] | None = None

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True, quiet=quiet))
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> StepBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        import psutil

        memory = f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"
        self._progress.update(self._task, completed=done, total=total, description=f"{message}, {memory}")

    def event(self, kind: str, **data: Any) -> None:
        if kind not in ("step", "checkpoint"):
            self._progress.console.print(f"{kind}: " + ", ".join(f"{k} {v}" for k, v in data.items()))

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.resume = state
