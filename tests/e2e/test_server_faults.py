"""What happens when something is killed, vanishes, is damaged or does not fit: for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ninestory.core.paths import Home
from ninestory.models.reference import parse_reference
from ninestory.models.store import folder_of
from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]
LONG = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Write a very long story."}],
    "max_tokens": 900,
    "stream": True,
}
SHORT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("faults"), runtime_slots="1", serve_max_queue="1") as server:
        yield server


def worker(server: ApiServer, model: str = MODEL) -> dict[str, Any]:
    return next(row for row in server.http.get("/ninestory/v1/ps").json()["data"] if row["model"] == model)


def idle(server: ApiServer) -> bool:
    return worker(server)["requests"] == 0


def wait_for(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_worker_killed_in_mid_stream_is_told_and_the_next_request_works(server: ApiServer) -> None:
    server.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
    with server.http.stream("POST", "/v1/chat/completions", json=LONG) as response:
        lines = response.iter_lines()
        next(line for line in lines if "content" in line)
        os.kill(worker(server)["pid"], signal.SIGKILL)
        events = [json.loads(line[5:]) for line in lines if line.startswith("data: {")]
    assert events[-1]["error"]["code"] == "worker_died"
    assert "signal 9" in events[-1]["error"]["message"]
    assert server.http.post("/v1/chat/completions", json=SHORT).status_code == 200


def test_worker_killed_between_requests_is_restarted(server: ApiServer) -> None:
    server.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
    before = worker(server)["pid"]
    os.kill(before, signal.SIGKILL)
    assert server.http.post("/v1/chat/completions", json=SHORT).status_code == 200
    assert worker(server)["pid"] != before


def test_a_stopped_worker_is_noticed_told_and_replaced(server: ApiServer) -> None:
    """SIGSTOP: the socket stays open and nothing comes any more."""
    server.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
    with server.http.stream("POST", "/v1/chat/completions", json=LONG) as response:
        lines = response.iter_lines()
        next(line for line in lines if "content" in line)
        began, stopped = time.monotonic(), worker(server)["pid"]
        os.kill(stopped, signal.SIGSTOP)
        events = [json.loads(line[5:]) for line in lines if line.startswith("data: {")]
    assert events[-1]["error"]["code"] == "worker_died" and "SIGSTOP" in events[-1]["error"]["message"]
    assert time.monotonic() - began < 10
    assert server.http.post("/v1/chat/completions", json=SHORT).status_code == 200
    assert worker(server)["pid"] != stopped


def test_a_client_that_goes_away_frees_its_slot(server: ApiServer) -> None:
    with server.http.stream("POST", "/v1/chat/completions", json=LONG) as response:
        next(line for line in response.iter_lines() if "content" in line)
    wait_for(lambda: idle(server), 10)
    assert server.http.post("/v1/chat/completions", json=SHORT).status_code == 200


def test_a_full_queue_is_a_429_with_retry_after(server: ApiServer) -> None:
    """One slot, one place in the queue: of three at once the third is refused, and nothing is lost."""
    with (
        httpx.Client(base_url=server.url, timeout=60) as other,
        ThreadPoolExecutor(1) as pool,
        server.http.stream("POST", "/v1/chat/completions", json=LONG) as first,
    ):
        lines = first.iter_lines()  # kept: when it is collected, the response is closed
        next(line for line in lines if "content" in line)
        waiting = pool.submit(other.post, "/v1/chat/completions", json=SHORT)
        wait_for(lambda: worker(server)["waiting"] == 1)
        refused = server.http.post("/v1/chat/completions", json=SHORT)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        first.close()
        assert waiting.result(60).status_code == 200


def test_a_list_of_prompts_does_not_fill_the_queue_by_itself(server: ApiServer) -> None:
    body = {"model": MODEL, "prompt": [f"Number {i} is" for i in range(5)], "max_tokens": 2}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code == 200 and len(answer.json()["choices"]) == 5


def test_gateway_killed_leaves_no_worker(tmp_path: Path) -> None:
    server = ApiServer(tmp_path).start()
    server.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
    pid = worker(server)["pid"]
    server.kill()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 5)


def test_sigterm_lets_the_running_answer_end(tmp_path: Path) -> None:
    server = ApiServer(tmp_path).start()
    server.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
    body = {**LONG, "max_tokens": 60}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(line for line in lines if "content" in line)
        server.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert "data: [DONE]" in rest
    assert server.process.wait(30) == 0


def test_a_request_that_takes_too_long_is_ended_and_frees_its_slot(tmp_path: Path) -> None:
    with ApiServer(tmp_path, serve_request_timeout="4", runtime_slots="1") as server:
        server.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
        with server.http.stream("POST", "/v1/chat/completions", json=LONG) as response:
            events = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data: {")]
        assert events[-1]["error"]["code"] == "timeout" and "4 s" in events[-1]["error"]["message"]
        wait_for(lambda: idle(server), 10)
        assert server.http.post("/v1/chat/completions", json=SHORT).status_code == 200


def test_an_idle_model_is_unloaded(tmp_path: Path) -> None:
    with ApiServer(tmp_path, serve_keep_alive="0") as server:
        server.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
        wait_for(lambda: not server.http.get("/ninestory/v1/ps").json()["data"], 10)


def test_a_model_that_does_not_fit_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with ApiServer(tmp_path, serve_memory_limit_mb="50") as server:
        response = server.http.post("/v1/chat/completions", json=SHORT)
        error = response.json()["error"]
        assert response.status_code == 507
        assert error["code"] == "does_not_fit" and "MB" in error["message"] and error["hint"]
        assert server.http.get("/health").status_code == 200


def test_the_least_recently_used_model_makes_room(tmp_path: Path) -> None:
    embedder = "starter:multilingual-e5-small"
    with ApiServer(tmp_path, serve_memory_limit_mb="700", runtime_slots="1") as server:
        server.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
        server.http.post("/v1/embeddings", json={"model": embedder, "input": "x"}).raise_for_status()
        loaded = [row["model"] for row in server.http.get("/ninestory/v1/ps").json()["data"]]
        assert loaded == [embedder]


def test_missing_truncated_and_lying_files_are_refused_by_their_fault(tmp_path: Path, starter_gguf: Path) -> None:
    def install(variant: str) -> Path:
        folder = folder_of(Home(tmp_path), parse_reference(f"gpt4all:{variant}"))
        folder.mkdir(parents=True)
        return folder / "model.gguf"

    install("falcon-q4_0").write_bytes(starter_gguf.read_bytes()[:50_000_000])
    lying = install("snoozy-q4_0")
    shutil.copyfile(starter_gguf, lying)
    with lying.open("r+b") as file:
        file.seek(8)
        file.write((2**40).to_bytes(8, "little"))
    with ApiServer(tmp_path) as server:
        for variant, status, word in (
            ("none", 400, "no variant"),
            ("j-v1.3", 404, "not on this machine"),
            ("falcon-q4_0", 422, "ends at byte"),
            ("snoozy-q4_0", 422, "tensors"),
        ):
            response = server.http.post("/v1/chat/completions", json={**SHORT, "model": f"gpt4all:{variant}"})
            assert (response.status_code, word in response.json()["error"]["message"]) == (status, True), response.text
        assert server.http.post("/v1/chat/completions", json=SHORT).status_code == 200


def test_a_key_guards_all_but_the_open_routes(tmp_path: Path) -> None:
    with ApiServer(tmp_path, serve_api_key="secret-key") as server:
        bare = httpx.Client(base_url=server.url)
        assert bare.get("/v1/models").status_code == 401
        assert bare.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert bare.get("/health").status_code == 200
        assert bare.get("/ui/").status_code == 200
        assert server.http.get("/v1/models").status_code == 200
        assert "secret-key" not in server.http.get("/ninestory/v1/system").text
