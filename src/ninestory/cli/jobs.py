"""`ninestory jobs ls | logs | cancel | resume`: long work, read from the state database (no server needed)."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

import typer

from ninestory.cli.output import Json, print_json, print_table
from ninestory.core.paths import Home
from ninestory.core.state import State
from ninestory.jobs.store import JobStore

app = typer.Typer(no_args_is_help=True, help="Long work: ls, logs, cancel, resume.")
JobId = Annotated[str, typer.Argument(help="Job id, as `jobs ls` shows it.")]


def _store() -> JobStore:
    return JobStore(State(Home.default().ensure().state_db))


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """All jobs, newest first."""
    jobs = _store().list()
    if as_json:
        print_json([dataclasses.asdict(j) for j in jobs])
        return
    rows = [[j.id, j.kind, j.state, _progress(j.done, j.total), _clock(j.created_at), j.message] for j in jobs]
    print_table(["job", "kind", "state", "done", "created", "message"], rows)


@app.command("logs")
def logs(job: JobId, as_json: Json = False) -> None:
    """The events of one job, in order."""
    events = _store().events(job)
    if as_json:
        print_json([dataclasses.asdict(e) for e in events])
        return
    for event in events:
        print(_clock(event.time), event.kind, event.data)


@app.command("cancel")
def cancel(job: JobId, as_json: Json = False) -> None:
    """Stop a job; a running one stops at its next report."""
    _print(_store().cancel(job), as_json)


@app.command("resume")
def resume(job: JobId, as_json: Json = False) -> None:
    """Queue a failed or cancelled job again, from its last checkpoint."""
    _print(_store().resume(job), as_json)


def _print(job: object, as_json: bool) -> None:
    data = dataclasses.asdict(job)  # type: ignore[call-overload]
    print_json(data) if as_json else print(f"{data['id']}: {data['state']}")


def _progress(done: float, total: float | None) -> str:
    return f"{100 * done / total:.0f} %" if total else ""


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
