"""`/v1/fine_tuning/jobs` through the `openai` client, on a server whose job process is killed and which is restarted."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests import tiny_models
from tests.e2e.api_server import ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.torch]

ROWS = [{"prompt": f"the {word}", "completion": word[::-1]} for word in ("ab", "ba", "tab", "bat")] * 5
QUICK = {
    "data": {"max_length": 32},
    "train": {"max_steps": 6, "learning_rate": 1e-2, "save_every": 2},
    "evaluate": {"eval_samples": 1, "max_tokens": 4},
}
ENDLESS = {**QUICK, "train": {"max_steps": 1_000_000, "save_every": 5}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    tiny_models.write_gguf(home / "models" / "tiny.gguf")
    with ApiServer(home) as server:
        yield server


def client(server: ApiServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def model(server: ApiServer) -> str:
    return str(server.home / "models" / "tiny.gguf")


def upload(ask: openai.OpenAI, rows: Any = ROWS, name: str = "rows.jsonl", purpose: Any = "fine-tune") -> str:
    text = "\n".join(json.dumps(row) for row in rows)
    return ask.files.create(file=(name, io.BytesIO(text.encode())), purpose=purpose).id


def until(what: Callable[[], Any], seconds: float = 150) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.3)
    return found


def test_a_job_from_upload_to_the_tuned_model(server: ApiServer) -> None:
    ask = client(server)
    made = ask.fine_tuning.jobs.create(
        model=model(server),
        training_file=upload(ask),
        validation_file=upload(ask, ROWS[:3]),
        suffix="mine",
        seed=7,
        metadata={"who": "me"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
        extra_body={"ninestory": QUICK},
    )
    assert made.id.startswith("ftjob-") and made.status == "queued" and made.fine_tuned_model is None
    assert made.hyperparameters.batch_size == 4 and made.seed == 7 and made.metadata == {"who": "me"}
    job = until(lambda: (j := ask.fine_tuning.jobs.retrieve(made.id)).status not in ("queued", "running") and j)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model.startswith("ft:tiny.gguf-mine-") and job.trained_tokens > 0 and job.finished_at
    assert job.ninestory["result"]["verdict"] in ("better", "worse", "unclear")
    assert (job.ninestory["steps_done"], job.ninestory["steps"]) == (6, 6)

    assert made.id in [j.id for j in ask.fine_tuning.jobs.list(limit=10)]
    events = list(ask.fine_tuning.jobs.list_events(made.id, limit=4))  # the client follows the pages
    assert [e.data["step"] for e in events if e.message.startswith("Step") and "training" in e.message] == [
        6,
        5,
        4,
        3,
        2,
        1,
    ]
    assert {e.type for e in events} == {"metrics", "message"}
    saved = ask.fine_tuning.jobs.checkpoints.list(made.id).data
    assert [c.step_number for c in saved] == [6, 4, 2] and saved[0].metrics.train_loss
    assert (server.home / "runs" / job.fine_tuned_model[3:] / "report.html").is_file()
    answer = ask.completions.create(model=job.fine_tuned_model, prompt="the ab", max_tokens=2, temperature=0)
    assert answer.usage.completion_tokens > 0  # type: ignore[union-attr]
    _comes_and_goes_while_the_server_runs(server, ask, job.fine_tuned_model)


def _comes_and_goes_while_the_server_runs(server: ApiServer, ask: openai.OpenAI, tuned: str) -> None:
    def loaded() -> list[str]:
        return [row["model"] for row in server.http.get("/ninestory/v1/ps").json()["data"]]

    def said(name: str) -> list[str]:
        prompts = ("the ab", "the", "t", "ba ba")
        made = [ask.completions.create(model=name, prompt=text, max_tokens=4, temperature=0) for text in prompts]
        return [answer.choices[0].text for answer in made]

    assert tuned in loaded()
    assert server.http.post("/ninestory/v1/unload", json={"model": tuned}).json()["unloaded"] and tuned not in loaded()
    run = tuned.removeprefix("ft:")
    row = server.http.post("/ninestory/v1/load", json={"model": tuned}).json()
    assert row["info"]["adapters"] == [run] and tuned in loaded()
    shutil.copytree(server.home / "runs" / run / "adapter", server.home / "runs" / "twin" / "adapter")
    assert said(tuned) == said(f"{model(server)}+{run}=0.7+twin=0.3") != said(f"{tuned}+twin=-1") == said(model(server))
    tiny_models.write_gguf(server.home / "models" / "other.gguf", rms_epsilon=1e-3)
    with pytest.raises(openai.ConflictError, match="was trained on") as refused:
        ask.completions.create(model=f"{server.home}/models/other.gguf+{run}", prompt="the ab", max_tokens=1)
    assert refused.value.code == "adapter_for_another_base"


def test_a_job_survives_kill_9_of_its_process_and_a_restart_and_is_cancelled_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_models.write_gguf(tmp_path / "models" / "tiny.gguf")
    server = ApiServer(tmp_path).start()
    ask = client(server)
    job = ask.fine_tuning.jobs.create(
        model=model(server), training_file=upload(ask), extra_body={"ninestory": ENDLESS}
    ).id

    def resumed() -> list[int]:
        log = server.http.get(f"/ninestory/v1/jobs/job_{job[6:]}/events", params={"limit": 1000}).json()["data"]
        return [line["data"]["step"] for line in log if line["kind"] == "resumed"]

    def steps_of_rows() -> tuple[float, float | None]:
        """Whatever a job counts before its first step, it is never called steps."""
        made = ask.fine_tuning.jobs.retrieve(job)
        assert made.ninestory["steps"] in (None, 1_000_000)  # type: ignore[attr-defined]
        return made.ninestory["steps_done"], made.estimated_finish  # type: ignore[attr-defined]

    assert steps_of_rows() == (0, None)
    until(lambda: steps_of_rows()[0] > 0 and ask.fine_tuning.jobs.checkpoints.list(job).data)
    assert steps_of_rows()[1] > time.time()  # type: ignore[operator]
    (worker,) = [p for p in psutil.Process(server.process.pid).children() if "job_process" in " ".join(p.cmdline())]
    os.kill(worker.pid, signal.SIGKILL)
    first = until(resumed)
    assert len(first) == 1 and first[0] % 5 == 0 and first[0] > 0

    before = _step(ask, job)
    assert server.stop() == 0
    server = ApiServer(tmp_path).start()
    try:
        ask = client(server)
        until(lambda: _step(ask, job) > before + 5)
        assert ask.fine_tuning.jobs.cancel(job).id == job
        until(lambda: ask.fine_tuning.jobs.retrieve(job).status == "cancelled")
        with pytest.raises(openai.ConflictError):
            ask.fine_tuning.jobs.cancel(job)
        assert list((tmp_path / "runs").glob("*/checkpoints/step-*"))
        assert ask.fine_tuning.jobs.resume(job).status == "queued"
        ask.fine_tuning.jobs.cancel(job)
    finally:
        server.stop()


def _step(ask: openai.OpenAI, job: str) -> int:
    """The last step there is a loss of (a job's `done` counts bytes while the model is read)."""
    newest = ask.fine_tuning.jobs.list_events(job, limit=20).data  # the newest first
    return next((event.data["step"] for event in newest if "training loss" in event.message), 0)


def test_preferences_by_openai_s_own_method_and_form(server: ApiServer) -> None:
    ask = client(server)
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": word}]},
            "preferred_output": [{"role": "assistant", "content": "ttt"}],
            "non_preferred_output": [{"role": "assistant", "content": "bab"}],
        }
        for word in ("ab", "ba", "tab", "bat")
    ] * 3
    made = ask.fine_tuning.jobs.create(
        model=model(server),
        training_file=upload(ask, rows),
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "batch_size": 4}}},
        extra_body={"ninestory": {**QUICK, "template": "alpaca-short", "data": {"max_length": 120}}},
    )
    assert made.method.type == "dpo" and made.method.dpo.hyperparameters.beta == 0.3
    job = until(lambda: (j := ask.fine_tuning.jobs.retrieve(made.id)).status not in ("queued", "running") and j)
    assert job.status == "succeeded", job.error
    assert job.ninestory["result"]["preferred"] == 1.0 and job.ninestory["result"]["base_loss"] < 0.7
    (last, *_) = [e for e in ask.fine_tuning.jobs.list_events(made.id, limit=50) if "training loss" in e.message]
    assert last.data["margin"] > 0 and last.data["accuracy"] == 1.0


def test_what_is_wrong_is_said_at_once_or_by_the_job(server: ApiServer) -> None:
    ask = client(server)

    def refused(status: type[openai.APIStatusError], words: str, **fields: Any) -> None:
        body = {"model": model(server), "training_file": good, **fields}
        with pytest.raises(status, match=words):
            ask.fine_tuning.jobs.create(**body)

    good = upload(ask)
    refused(openai.NotFoundError, "no file", training_file="file-absent")
    refused(openai.NotFoundError, "not on this machine", model="hf:nobody/nothing")
    refused(openai.PermissionDeniedError, "outside its home", model="/etc/passwd")
    refused(openai.BadRequestError, "'assistants'", training_file=upload(ask, purpose="assistants"))
    refused(openai.BadRequestError, "no data file", training_file=upload(ask, name="rows.exe"))
    refused(openai.BadRequestError, "type", method={"type": "reinforcement"})
    refused(openai.BadRequestError, "other type", method={"type": "dpo", "supervised": {}})
    refused(openai.BadRequestError, "integrations", integrations=[{"type": "wandb", "wandb": {"project": "x"}}])
    for extension, words in (
        ({"data": {"train": ["/etc/passwd"]}}, "path on the server"),
        ({"evaluate": {"forgetting_text": "/etc/passwd"}}, "path on the server"),
        ({"train": {"max_step": 1}}, "unknown key"),
        ({"trian": {}}, "unknown key"),
        ({"train": 3}, "no object"),
    ):
        refused(openai.BadRequestError, words, extra_body={"ninestory": extension})
    with pytest.raises(openai.NotFoundError):
        ask.fine_tuning.jobs.retrieve("ftjob-absent")

    bad = ask.fine_tuning.jobs.create(
        model=model(server), training_file=upload(ask, [{"a": 1}]), extra_body={"ninestory": QUICK}
    )
    job = until(lambda: (j := ask.fine_tuning.jobs.retrieve(bad.id)).status == "failed" and j)
    assert job.error.code == "unknown_format" and "columns a" in job.error.message
