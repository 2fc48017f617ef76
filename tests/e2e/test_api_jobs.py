"""Jobs and the event stream of a real server: pull from a hub of our own, kill, restart, cancel, resume."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class SlowHub:
    """A Hugging Face hub on loopback with one model, given a megabyte at a time until `hurry` is set."""

    MODEL = "hf:tests/slow"

    def __init__(self) -> None:
        header = b'{"w":{"dtype":"F32","shape":[3145728],"data_offsets":[0,12582912]}}'
        self.weights = struct.pack("<Q", len(header)) + header + bytes(12_582_912)
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
        self.files = {"config.json": json.dumps(config).encode(), "model.safetensors": self.weights}
        self.hurry = threading.Event()
        self.asked: list[str] = []  # the ranges of model.safetensors
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.hurry.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/api/models/tests/slow/"):
                    siblings = [{"rfilename": name, "size": len(body)} for name, body in hub.files.items()]
                    card = {"license": "apache-2.0"}
                    self._send(json.dumps({"sha": "c0ffee", "siblings": siblings, "cardData": card}).encode(), 200)
                    return
                name = self.path.rpartition("/")[2]
                span = self.headers.get("Range", "")
                start = int(span.removeprefix("bytes=").rstrip("-") or 0)
                if name == "model.safetensors":
                    hub.asked.append(span)
                self._send(hub.files[name][start:], 206 if span else 200, start)

            def _send(self, body: bytes, status: int, start: int = 0) -> None:
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{start + len(body)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(OSError):  # the one who asked was killed
                    for at in range(0, len(body), 1 << 20):
                        self.wfile.write(body[at : at + (1 << 20)])
                        hub.hurry.wait(0.25 if len(body) > 1 << 20 else 0)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def hub() -> Iterator[SlowHub]:
    made = SlowHub()
    yield made
    made.close()


def start_pull(server: ApiServer) -> dict[str, Any]:
    """Ask for the model and wait until some of it has come."""
    answer = server.http.post(f"{BASE}/models/pull", json={"model": SlowHub.MODEL})
    assert answer.status_code == 202, answer.text
    return wait_for(lambda: (job := get_job(server, answer.json()["id"])) and job["done"] > 2e6 and job)


def get_job(server: ApiServer, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = server.http.get(f"{BASE}/jobs/{job_id}").json()
    return job


def test_pull_survives_a_killed_server_and_goes_on_where_it_was(tmp_path: Path, hub: SlowHub) -> None:
    server = ApiServer(tmp_path / "home", hub_hf_endpoint=hub.url).start()
    job = start_pull(server)
    assert job["state"] == "running" and job["total"] > 12e6
    same = server.http.post(f"{BASE}/models/pull", json={"model": SlowHub.MODEL}).json()
    assert same["id"] == job["id"]
    server.kill()
    hub.hurry.set()
    with server:
        done = wait_for(lambda: (now := get_job(server, job["id"])) and now["state"] == "succeeded" and now)
        assert done["attempts"] >= 1 and done["result"]["model"] == SlowHub.MODEL and done["done"] == done["total"]
        assert [span != "" for span in hub.asked] == [False, True]
        installed = {row["model"]: row for row in server.http.get(f"{BASE}/models").json()["data"]}
        assert installed[SlowHub.MODEL]["removable"] and installed[SlowHub.MODEL]["licence"] == "apache-2.0"
        assert installed["starter:smollm2-135m-instruct"]["licence"] == "Apache-2.0"
        log = server.http.get(f"{BASE}/jobs/{job['id']}/events").json()["data"]
        assert log[0]["kind"] == "licence" and log[0]["data"]["licence"] == "apache-2.0"
        verified = server.http.post(f"{BASE}/models/verify", json={"model": SlowHub.MODEL}).json()
        assert verified["ok"] and verified["tensors"] == 1
        removed = server.http.delete(f"{BASE}/models", params={"model": SlowHub.MODEL}).json()
        assert removed["deleted"]
        assert server.http.post(f"{BASE}/models/verify", json={"model": SlowHub.MODEL}).status_code == 404


def test_pull_is_given_back_when_the_server_stops_in_good_order(tmp_path: Path, hub: SlowHub) -> None:
    server = ApiServer(tmp_path / "home", hub_hf_endpoint=hub.url).start()
    job = start_pull(server)
    server.stop()
    left = other_process(server.home).get(job["id"])
    assert left.state == "queued"
    hub.hurry.set()
    with server:
        wait_for(lambda: get_job(server, job["id"])["state"] == "succeeded")


def test_pull_is_cancelled_and_resumed(tmp_path: Path, hub: SlowHub) -> None:
    with ApiServer(tmp_path / "home", hub_hf_endpoint=hub.url) as server:
        job = start_pull(server)
        assert server.http.post(f"{BASE}/jobs/{job['id']}/cancel").json()["cancel_requested"]
        wait_for(lambda: get_job(server, job["id"])["state"] == "cancelled")
        assert SlowHub.MODEL not in [row["model"] for row in server.http.get(f"{BASE}/models").json()["data"]]
        hub.hurry.set()
        assert server.http.post(f"{BASE}/jobs/{job['id']}/resume").json()["state"] == "queued"
        wait_for(lambda: get_job(server, job["id"])["state"] == "succeeded")
        assert hub.asked[-1] != ""


def test_pull_of_the_command_line_is_a_job_too(tmp_path: Path, hub: SlowHub) -> None:
    hub.hurry.set()
    environ = {**os.environ, "NINESTORY_HOME": str(tmp_path), "NINESTORY_HUB_HF_ENDPOINT": hub.url}
    command = [sys.executable, "-m", "ninestory"]
    pulled = subprocess.run([*command, "pull", SlowHub.MODEL], env=environ, capture_output=True, text=True)
    assert pulled.returncode == 0 and SlowHub.MODEL in pulled.stdout, pulled.stderr
    listed = subprocess.run([*command, "jobs", "ls", "--json"], env=environ, capture_output=True, text=True)
    (job,) = json.loads(listed.stdout)
    assert (job["kind"], job["state"]) == ("pull", "succeeded") and job["result"]["model"] == SlowHub.MODEL


def test_pull_of_what_no_hub_has_fails_with_the_cure(tmp_path: Path, hub: SlowHub) -> None:
    hub.close()
    with ApiServer(tmp_path / "home", hub_hf_endpoint=hub.url) as server:
        job = server.http.post(f"{BASE}/models/pull", json={"model": "hf:nobody/nothing"}).json()
        failed = wait_for(lambda: (now := get_job(server, job["id"])) and now["state"] == "failed" and now)
        assert failed["error"]["type"] == "RemoteFailed" and "HF_ENDPOINT" in failed["error"]["hint_zh"]


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
        lines = response.iter_lines()
        next(lines)
        server.process.terminate()
        for _ in lines:  # a stream that the server had to cut would raise here
            pass
    server.stop()


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
