"""jobs/: nothing is lost or done twice, whatever dies; cancel, resume, shutdown, full disk."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Conflict, DiskFull, NotFound
from ninestory.core.state import State
from ninestory.jobs.runner import JobRunner
from ninestory.jobs.store import JobStore, LeaseLost
from ninestory.runtimes.protocol import JobContext
from tests.job_context import contexts

WORKER = """
import signal, sys, time
from pathlib import Path
from ninestory.core.state import State
from ninestory.jobs.runner import JobRunner
from ninestory.jobs.store import JobStore
from tests.job_context import contexts

def count(params, context):
    progress = context.progress
    start = (progress.resume or {"step": 0})["step"]
    if start:
        progress.event("resumed", step=start)
    for step in range(start, params["steps"]):
        time.sleep(params.get("seconds", 0.004))
        progress.checkpoint({"step": step + 1})
        progress.update(step + 1, params["steps"])
    with open(params["ledger"], "a") as ledger:
        ledger.write(params["name"] + "\\n")
    return {"counted": params["steps"]}

def die(params, context):
    import os
    os.kill(os.getpid(), 9)

store = JobStore(State(Path(sys.argv[1])), lease_seconds=float(sys.argv[2]))
runner = JobRunner(store, {"count": count, "die": die}, contexts(store))
signal.signal(signal.SIGTERM, lambda *_: runner.stop())
print("up", flush=True)
runner.run_until_idle(float(sys.argv[3]))
"""


def start_worker(database: Path, lease: float = 1.0, idle: float = 30.0) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(database), str(lease), str(idle)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None and worker.stdout.readline() == "up\n"
    return worker


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(State(tmp_path / "state.db"), lease_seconds=1.0)


@pytest.mark.slow
def test_no_job_is_lost_or_finished_twice_while_workers_are_killed(store: JobStore, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    jobs = [store.create("count", {"steps": 8, "name": f"job{number}", "ledger": str(ledger)}) for number in range(120)]
    cancelled = {jobs[number].id for number in (60, 90, 110)}
    for job_id in cancelled:
        store.cancel(job_id)
    chance = random.Random(7)
    workers = [start_worker(store.state.path) for _ in range(3)]
    for _ in range(8):
        time.sleep(chance.uniform(0.05, 0.4))
        victim = chance.randrange(3)
        workers[victim].kill()
        workers[victim].wait()
        workers[victim] = start_worker(store.state.path)
    wait_for(lambda: all(job.is_over for job in store.list(limit=200)))
    for worker in workers:
        worker.kill()
        worker.wait()

    ended = {job.id: job for job in store.list(limit=200)}
    assert {job_id for job_id, job in ended.items() if job.state == "cancelled"} == cancelled
    assert all(job.state == "succeeded" for job_id, job in ended.items() if job_id not in cancelled)
    # A worker killed between its last step and the finish repeats that step; no row ends twice.
    assert set(ledger.read_text().split()) == {job.params["name"] for job in jobs if job.id not in cancelled}
    assert any(event.kind == "resumed" for event in store.events())
    assert store.state.execute("PRAGMA integrity_check")[0][0] == "ok"


def test_a_killed_job_goes_on_from_its_checkpoint(store: JobStore, tmp_path: Path) -> None:
    job = store.create("count", {"steps": 40, "name": "a", "ledger": str(tmp_path / "ledger"), "seconds": 0.02})
    worker = start_worker(store.state.path)
    wait_for(lambda: (store.get(job.id).checkpoint or {}).get("step", 0) >= 5)
    worker.kill()
    worker.wait()
    reached = (store.get(job.id).checkpoint or {})["step"]
    worker = start_worker(store.state.path)
    wait_for(lambda: store.get(job.id).is_over)
    worker.kill()
    worker.wait()
    ended = store.get(job.id)
    assert ended.state == "succeeded" and ended.result == {"counted": 40} and ended.done == ended.total == 40
    assert [event.data["step"] for event in store.events(job.id)] == [reached]


def test_sigterm_gives_the_job_back_to_the_queue(store: JobStore, tmp_path: Path) -> None:
    job = store.create("count", {"steps": 4000, "name": "a", "ledger": str(tmp_path / "ledger")})
    worker = start_worker(store.state.path)
    wait_for(lambda: (store.get(job.id).checkpoint or {}).get("step", 0) >= 5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=10) == 0
    given_back = store.get(job.id)
    assert given_back.state == "queued" and given_back.checkpoint is not None
    assert not (tmp_path / "ledger").exists()


def test_a_job_that_kills_its_worker_is_given_up(tmp_path: Path) -> None:
    store = JobStore(State(tmp_path / "state.db"), lease_seconds=0.2, max_attempts=2)
    job = store.create("die", {})
    for _ in range(2):
        start_worker(store.state.path, lease=0.2).wait()
        time.sleep(0.25)
    assert store.claim(["die"]) is None
    ended = store.get(job.id)
    assert ended.state == "failed" and ended.error is not None and ended.error["code"] == "job_kept_dying"
    assert store.resume(job.id).state == "queued"


def test_cancel_stops_a_running_job_and_resume_goes_on(store: JobStore) -> None:
    started, seen = threading.Event(), []

    def wait(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
        progress = context.progress
        seen.append(progress.resume)
        if progress.resume:
            return {"ok": True}
        progress.checkpoint({"half": 1})
        started.set()
        while True:
            progress.update(1, 2)
            time.sleep(0.01)

    job = store.create("wait", {})
    runner = JobRunner(store, {"wait": wait}, contexts(store))
    thread = threading.Thread(target=runner.run, args=(job.id,))
    thread.start()
    assert started.wait(10)
    assert store.cancel(job.id).cancel_requested
    thread.join(10)
    assert store.get(job.id).state == "cancelled"
    with pytest.raises(Conflict):
        store.cancel(job.id)
    store.resume(job.id)
    with pytest.raises(Conflict):
        store.resume(job.id)
    ended = runner.run(job.id)
    assert ended is not None and ended.state == "succeeded" and ended.result == {"ok": True}
    assert seen == [None, {"half": 1}]


def test_a_runner_without_its_lease_writes_nothing(store: JobStore) -> None:
    job = store.create("x", {})
    store.lease_seconds = 0.05
    first = store.claim(["x"])
    assert first is not None
    time.sleep(0.1)
    store.lease_seconds = 10.0
    second = store.claim(["x"])
    assert second is not None and second.job.attempts == 2
    for write in (
        lambda: store.beat(first, 1, 2, ""),
        lambda: store.checkpoint(first, {}),
        lambda: store.add_event(first, "log", {}),
        lambda: store.finish(first, "succeeded"),
        lambda: store.release(first),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert store.events(job.id) == [] and store.get(job.id).checkpoint is None
    store.finish(second, "succeeded")


def test_what_a_dead_process_held_is_taken_up_at_once_and_nothing_else(tmp_path: Path) -> None:
    dead, alive = (JobStore(State(tmp_path / "state.db"), holder=name) for name in ("dead", "dead2"))
    held = [store.create_claimed("x", {}) for store in (dead, alive)]
    assert alive.claim(["x"]) is None
    alive.end_leases("dead")
    taken = alive.claim(["x"])
    assert taken is not None and taken.job.id == held[0].job.id and alive.claim(["x"]) is None
    with pytest.raises(LeaseLost):
        dead.beat(held[0], 1, 2, "")
    assert alive.beat(held[1], 1, 2, "") is False


def test_work_of_the_command_line_is_a_row_and_seen_by_its_watcher(store: JobStore) -> None:
    class Bar:
        resume = None

        def __init__(self) -> None:
            self.seen: list[Any] = []

        def update(self, done: float, total: float | None = None, message: str = "") -> None:
            self.seen.append((done, total, message))

        def event(self, kind: str, **data: Any) -> None:
            self.seen.append((kind, data))

        def checkpoint(self, state: dict[str, Any]) -> None:
            raise AssertionError("the row keeps it")

    def work(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
        progress = context.progress
        progress.update(1, 2, "half")
        progress.event("log", text="x")
        progress.checkpoint({"half": True})
        assert store.claim(["work"]) is None, "no other runner may take it"
        if params["interrupt"]:
            raise KeyboardInterrupt
        return {"ok": True}

    bar, runner = Bar(), JobRunner(store, {"work": work}, contexts(store))
    ended = runner.run_new("work", {"interrupt": False}, bar)
    assert (ended.state, ended.result, ended.message) == ("succeeded", {"ok": True}, "half")
    assert bar.seen == [(1, 2, "half"), ("log", {"text": "x"})]
    with pytest.raises(KeyboardInterrupt):
        runner.run_new("work", {"interrupt": True}, bar)
    interrupted = store.list()[0]
    assert interrupted.state == "cancelled" and store.resume(interrupted.id).checkpoint == {"half": True}


def test_failure_is_kept_with_its_words(store: JobStore) -> None:
    def full(params: dict[str, Any], context: JobContext) -> None:
        raise DiskFull("No room for 3 GB.", hint="Free some.", hint_zh="请清理。")

    def broken(params: dict[str, Any], context: JobContext) -> None:
        raise KeyError("oops")

    runner = JobRunner(store, {"full": full, "broken": broken}, contexts(store))
    ended = runner.run(store.create("full", {}).id)
    assert ended is not None and ended.error is not None
    assert (ended.state, ended.error["type"], ended.error["hint_zh"]) == ("failed", "DiskFull", "请清理。")
    ended = runner.run(store.create("broken", {}).id)
    assert ended is not None and ended.error is not None and "KeyError: 'oops'" in ended.error["message"]


def test_full_disk_ends_no_job_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    store = JobStore(State(tmp_path / "state.db"), lease_seconds=0.3)

    def write(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
        progress = context.progress
        if progress.resume:
            return {"resumed_at": progress.resume["step"]}
        progress.checkpoint({"step": 1})
        pages = store.state.execute("PRAGMA page_count")[0][0]
        store.state.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(100):
            progress.event("log", text=f"{number}" * 1000)
        raise AssertionError("the disk was never full")

    job = store.create("write", {})
    JobRunner(store, {"write": write}, contexts(store)).run(job.id)
    store.state.execute("PRAGMA max_page_count = 1000000")
    left = store.get(job.id)
    if left.state == "running":  # not even the failure could be written: its lease runs out
        time.sleep(0.4)
    else:
        assert left.state == "failed" and left.error is not None and left.error["type"] == "DiskFull"
        store.resume(job.id)
    ended = JobRunner(store, {"write": write}, contexts(store)).run(job.id)
    assert ended is not None and ended.result == {"resumed_at": 1}


def test_listing_pages_and_removing(store: JobStore) -> None:
    jobs = [store.create("a" if number % 2 else "b", {}) for number in range(6)]
    newest = store.list(limit=2)
    assert [job.id for job in newest] == [jobs[5].id, jobs[4].id]
    assert [job.id for job in store.list(limit=2, after=newest[-1].id)] == [jobs[3].id, jobs[2].id]
    assert len(store.list(kind="a")) == 3 and store.list(state="running") == []
    with pytest.raises(Conflict):
        store.remove(jobs[0].id)
    store.cancel(jobs[0].id)
    store.remove(jobs[0].id)
    with pytest.raises(NotFound):
        store.get(jobs[0].id)


def test_events_are_numbered_over_all_jobs(store: JobStore) -> None:
    first, second = store.create("x", {}), store.create("x", {})
    claims = [store.claim(["x"], job.id) for job in (first, second)]
    for number in range(4):
        claim = claims[number % 2]
        assert claim is not None
        store.add_event(claim, "log", {"n": number})
    everything = store.events()
    assert [event.data["n"] for event in everything] == [0, 1, 2, 3]
    assert [event.data["n"] for event in store.events(second.id, after_seq=everything[1].seq)] == [3]
    assert store.last_seq() == everything[-1].seq
