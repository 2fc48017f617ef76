"""`ninestory pull`: the only verb that uses the network."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ninestory.cli.output import Json, print_json, size
from ninestory.core.paths import Home

app = typer.Typer()


@app.command()
def pull(model: Annotated[str, typer.Argument(help="Model reference.")], as_json: Json = False) -> None:
    """Fetch a model: resumable, checked, and only what is needed. A job like any long work: see `ninestory jobs`."""
    import dataclasses

    from ninestory.core.config import load_settings
    from ninestory.core.errors import Cancelled, from_dict
    from ninestory.core.state import State
    from ninestory.jobs.runner import JobRunner
    from ninestory.jobs.store import JobStore
    from ninestory.models.reference import parse_reference
    from ninestory.models.resolve import resolve
    from ninestory.serving.job_kinds import works

    home = Home.default().ensure()
    reference = str(parse_reference(model))
    runner = JobRunner(JobStore(State(home.state_db)), works(home, load_settings().settings.hub))
    with Bar(quiet=as_json) as bar:
        job = runner.run_new("pull", {"model": reference}, bar)
    if job.error:
        raise from_dict(job.error)
    if job.state == "cancelled":
        raise Cancelled(f"The pull was cancelled; 'ninestory jobs resume {job.id}' or the same command goes on.")
    found = resolve(reference, home)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        print(
            f"{found.reference}: {size(found.total_bytes)}" + (f", licence: {found.licence}" if found.licence else "")
        )


class Bar:
    """A `Progress` drawn with Rich on stderr."""

    resume: dict[str, Any] | None = None

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True, quiet=quiet))
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, description=message[-40:])

    def event(self, kind: str, **data: Any) -> None:
        self._progress.console.print(f"{kind}: " + ", ".join(f"{k} {v}" for k, v in data.items()))

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.resume = state
