"""Jobs of different lanes side by side on a real server, with real kinds and processes; what they take is counted."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from ninestory.core.errors import NotFound
from ninestory.core.state import State
from ninestory.jobs.store import JobStore
from tests import tiny_models

pytestmark = [pytest.mark.slow, pytest.mark.torch]

BASE = "/ninestory/v1"
LIMIT_MB = 960  # the tuning run takes 426, the embedder 460, the idle model 184
ENDLESS = {"data": {"max_length": 32}, "train": {"max_steps": 1_000_000, "save_every": 20, "keep": 1000}}
ROWS = "\n".join(json.dumps({"prompt": f"the {word}", "completion": word}) for word in ("ab", "ba", "tab", "bat") * 5)


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return value


class CommandServer:
    """`ninestory serve` as a user starts it, with two threads in the environment and one by its flag."""

    def __init__(self, home: Path) -> None:
        self.home = home
        environ = {**os.environ, "NINESTORY_HOME": str(home), "OMP_NUM_THREADS": "2"}
        environ |= {"NINESTORY_SERVE_MEMORY_LIMIT_MB": str(LIMIT_MB), "NINESTORY_RUNTIME_CONTEXT": "64"}
        command = [sys.executable, "-m", "ninestory", "serve", "--port", "0", "--threads", "1"]
        self.process = subprocess.Popen(command, env=environ, cwd=home, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        banner = next(line for line in self.process.stdout if "http://" in line)
        self.url = re.findall(r"http://[^\s/]+", banner)[0]
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def loaded(self) -> dict[str, Any]:
        """Its models by name."""
        return {row["model"]: row for row in self.http.get(f"{BASE}/ps").json()["data"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    tiny_models.write_gguf(home / "models" / "tiny.gguf")
    tiny_models.write_encoder(home / "models" / "encoder")
    server = CommandServer(home)
    yield server
    server.http.close()
    server.process.terminate()
    server.process.wait(30)


@pytest.fixture
def ask(server: CommandServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def upload(ask: openai.OpenAI, text: str, name: str, purpose: Any) -> str:
    return ask.files.create(file=(name, io.BytesIO(text.encode())), purpose=purpose).id


def test_an_ingest_runs_during_a_tuning_run_and_both_are_counted(server: CommandServer, ask: openai.OpenAI) -> None:
    model, rows = str(server.home / "models" / "tiny.gguf"), upload(ask, ROWS, "rows.jsonl", "fine-tune")
    encoder = str(server.home / "models" / "encoder")
    ask.completions.create(model=model, prompt="the", max_tokens=1)
    tuning, second = (
        ask.fine_tuning.jobs.create(model=model, training_file=rows, extra_body={"ninestory": ENDLESS}).id
        for _ in range(2)
    )
    saved = until(lambda: list(server.home.glob("runs/*/checkpoints/step-*/state.json")))
    assert model in server.loaded()
    # a flag of serve reaches a job
    assert json.loads(saved[0].read_text())["environment"]["threads"] == 1

    # an ingest runs meanwhile; the second run waits, since its lane has one process
    store = ask.vector_stores.create(
        name="beside",
        file_ids=[upload(ask, "word1 word2.", "words.txt", "assistants")],
        extra_body={"embedding_model": encoder},
    )
    until(lambda: ask.vector_stores.retrieve(store.id).file_counts.completed == 1)
    assert ask.fine_tuning.jobs.retrieve(tuning).status == "running"
    assert ask.fine_tuning.jobs.retrieve(second).status == "queued"
    children = psutil.Process(server.process.pid).children()
    assert len([child for child in children if "ninestory.serving.job_process" in child.cmdline()]) == 2

    # what the tuning run takes is counted: without it the idle model could have stayed beside the embedder
    assert list(server.loaded()) == [encoder], server.loaded()
    for job in (second, tuning):
        ask.fine_tuning.jobs.cancel(job)
    until(lambda: ask.fine_tuning.jobs.retrieve(tuning).status == "cancelled")


def test_wrong_names_leave_no_job_and_a_failed_job_is_dismissed(server: CommandServer, ask: openai.OpenAI) -> None:
    before = server.http.get(f"{BASE}/jobs").json()["data"]
    good = upload(ask, "Boats float.", "boats.txt", "assistants")
    rows = upload(ask, ROWS, "rows.jsonl", "fine-tune")
    for call in (
        lambda: ask.vector_stores.create(name="x", file_ids=[good], extra_body={"embedding_model": "nosuch-model"}),
        lambda: ask.vector_stores.create(name="x", extra_body={"embedding_model": "hf:nobody/nothing"}),
        lambda: ask.vector_stores.create(name="x", file_ids=["file-absent"]),
        lambda: ask.vector_stores.files.create("vs_absent", file_id=good),
        lambda: ask.fine_tuning.jobs.create(model="nosuch-model", training_file=rows),
        lambda: ask.fine_tuning.jobs.create(model=str(server.home / "models/tiny.gguf"), training_file="file-absent"),
        lambda: ask.post(f"{server.url}{BASE}/models/pull", body={"model": "nosuch-model"}, cast_to=object),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    assert server.http.get(f"{BASE}/jobs").json()["data"] == before
    assert "x" not in [store.name for store in ask.vector_stores.list()]

    store = JobStore(State(server.home / "state.db"))
    claim = store.create_claimed("elsewhere", {})
    store.finish(claim, "failed", error=NotFound("There is no such model."))
    row = f"{BASE}/jobs/{claim.job.id}"
    failed = server.http.get(row).json()
    assert failed["state"] == "failed" and not failed["resumable"]  # the name will be as wrong the next time
    command = [sys.executable, "-m", "ninestory", "jobs", "dismiss", failed["id"], "--server", server.url]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "dismissed" in done.stdout, done.stderr
    assert server.http.get(row).status_code == 404
