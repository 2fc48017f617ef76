"""Jobs and the event stream of a real server: pull from a hub of our own, kill, restart, cancel, resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ninestory.core.state import State
from ninestory.jobs.store import JobStore
from tests.e2e.api_server import MODEL, ApiServer

pytestmark = pytest.mark.slow

BASE = "/ninestory/v1"


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


@contextmanager
def listening(server: ApiServer, **headers: str) -> Iterator[Iterator[tuple[str, str, Any]]]:
    """The server's events as (name, id, data)."""
    with server.http.stream("GET", f"{BASE}/events", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")

        def events() -> Iterator[tuple[str, str, Any]]:
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                if not line and fields:
                    yield fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
                    fields = {}
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value

        yield events()


def other_process(home: Path) -> JobStore:
    """A runner beside the server, as the command line is one."""
    return JobStore(State(home / "state.db"))


def test_events_tell_of_jobs_their_logs_and_models(tmp_path: Path) -> None:
    with ApiServer(tmp_path / "home") as server:
        store = other_process(server.home)
        waiting = store.create("elsewhere", {"n": 1})
        with listening(server) as events:
            name, _, hello = next(events)
            assert name == "hello" and hello["version"] and hello["seq"] == 0
            assert next(events)[0::2] == ("job", server.http.get(f"{BASE}/jobs/{waiting.id}").json())
            assert next(events)[0::2] == ("models", {"data": []})
            claim = store.claim(["elsewhere"])
            assert claim is not None
            first = store.add_event(claim, "metric", {"loss": 1.5})
            seen = [next(events) for _ in range(2)]
            assert {name for name, _, _ in seen} == {"job", "job_event"}
            told = next(data for name, _, data in seen if name == "job_event")
            assert (told["seq"], told["kind"], told["data"]) == (first, "metric", {"loss": 1.5})
        second = store.add_event(claim, "metric", {"loss": 1.0})
        with listening(server, **{"Last-Event-ID": str(first)}) as events:
            missed = next(event for event in events if event[0] == "job_event")
            assert missed[1] == str(second) and missed[2]["data"] == {"loss": 1.0}
        log = server.http.get(f"{BASE}/jobs/{claim.job.id}/events", params={"after_seq": first}).json()
        assert [line["seq"] for line in log["data"]] == [second]


@pytest.mark.starter
def test_events_tell_of_a_loaded_model(api_server: ApiServer) -> None:
    api_server.http.post(f"{BASE}/unload", json={"model": MODEL})
    with listening(api_server) as events:
        assert next(data for name, _, data in events if name == "models") == {"data": []}
        httpx.post(f"{api_server.url}{BASE}/load", json={"model": MODEL}, timeout=60)
        states = (data["data"][0]["state"] for name, _, data in events if name == "models")
        assert next(state for state in states if state != "starting") == "ready"


def test_an_open_event_stream_does_not_hold_up_the_end_of_the_server(tmp_path: Path) -> None:
    server = ApiServer(tmp_path / "home").start()
    with httpx.Client(base_url=server.url, timeout=60) as http, http.stream("GET", f"{BASE}/events") as response:
        next(response.iter_lines())
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 20


def test_queued_job_is_cancelled_resumed_and_removed(http: httpx.Client, api_server: ApiServer) -> None:
    job = other_process(api_server.home).create("elsewhere", {})
    url = f"{BASE}/jobs/{job.id}"
    assert http.post(f"{url}/resume").json()["error"]["code"] == "job_not_resumable"
    assert http.delete(url).json()["error"]["code"] == "job_active"
    assert http.post(f"{url}/cancel").json()["state"] == "cancelled"
    again = http.post(f"{url}/cancel")
    assert again.status_code == 409 and again.json()["error"]["code"] == "job_finished"
    assert http.post(f"{url}/resume").json()["state"] == "queued"
    http.post(f"{url}/cancel")
    assert http.delete(url).json()["deleted"] and http.get(url).status_code == 404


def test_list_filters_and_pages(http: httpx.Client, api_server: ApiServer) -> None:
    store = other_process(api_server.home)
    ids = [store.create("listed", {}).id for _ in range(3)]
    page = http.get(f"{BASE}/jobs", params={"kind": "listed", "limit": 2}).json()
    assert [job["id"] for job in page["data"]] == [ids[2], ids[1]] and page["has_more"]
    rest = http.get(f"{BASE}/jobs", params={"kind": "listed", "limit": 2, "after": ids[1]}).json()
    assert [job["id"] for job in rest["data"]] == [ids[0]] and not rest["has_more"]
    assert http.get(f"{BASE}/jobs", params={"state": "finished"}).status_code == 400
