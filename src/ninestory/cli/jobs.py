"""`ninestory jobs ls | logs | cancel | resume | dismiss`: long work, read from the state database, or asked of a server (--server)."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ninestory.cli.client import DEFAULT, Server, running_server
from ninestory.cli.output import Json, print_json, print_table
from ninestory.core.paths import Home
from ninestory.core.state import State
from ninestory.jobs.store import JobStore

_PATH = "/ninestory/v1/jobs"
app = typer.Typer(no_args_is_help=True, help="Long work: ls, logs, cancel, resume, dismiss.")
JobId = Annotated[str, typer.Argument(help="Job id, as `jobs ls` shows it.")]


def _store() -> JobStore:
    return JobStore(State(Home.default().ensure().state_db))


@app.command("ls")
def ls(server: Server = DEFAULT, as_json: Json = False) -> None:
    """All jobs, newest first."""
    client = running_server(server)
    jobs = (
        client.call("GET", f"{_PATH}?limit=200")["data"] if client else [dataclasses.asdict(j) for j in _store().list()]
    )
    if as_json:
        print_json(jobs)
        return
    rows = [
        [j["id"], j["kind"], j["state"], _progress(j["done"], j["total"]), _clock(j["created_at"]), j["message"]]
        for j in jobs
    ]
    print_table(["job", "kind", "state", "done", "created", "message"], rows)


@app.command("logs")
def logs(job: JobId, server: Server = DEFAULT, as_json: Json = False) -> None:
    """The events of one job, in order."""
    client = running_server(server)
    if client:
        events = client.call("GET", f"{_PATH}/{quote(job, safe='')}/events?limit=1000")["data"]
    else:
        _store().get(job)
        events = [dataclasses.asdict(e) for e in _store().events(job)]
    if as_json:
        print_json(events)
        return
    for event in events:
        print(_clock(event["time"]), event["kind"], event["data"])


@app.command("cancel")
def cancel(job: JobId, server: Server = DEFAULT, as_json: Json = False) -> None:
    """Stop a job; a running one stops at its next report."""
    client = running_server(server)
    path = f"{_PATH}/{quote(job, safe='')}/cancel"
    _print(client.call("POST", path) if client else dataclasses.asdict(_store().cancel(job)), as_json)


@app.command("resume")
def resume(job: JobId, server: Server = DEFAULT, as_json: Json = False) -> None:
    """Queue a failed or cancelled job again, from its last checkpoint."""
    client = running_server(server)
    path = f"{_PATH}/{quote(job, safe='')}/resume"
    _print(client.call("POST", path) if client else dataclasses.asdict(_store().resume(job)), as_json)


@app.command("dismiss")
def dismiss(job: JobId, server: Server = DEFAULT, as_json: Json = False) -> None:
    """Remove a job that is over from the list, with its log."""
    client = running_server(server)
    if client:
        removed = client.call("DELETE", f"{_PATH}/{quote(job, safe='')}")
    else:
        _store().remove(job)
        removed = {"id": job, "object": "job.deleted", "deleted": True}
    print_json(removed) if as_json else print(f"{job}: dismissed")


def _print(job: dict[str, Any], as_json: bool) -> None:
    print_json(job) if as_json else print(f"{job['id']}: {job['state']}")


def _progress(done: float, total: float | None) -> str:
    return f"{100 * done / total:.0f} %" if total else ""


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
