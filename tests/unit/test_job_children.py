"""jobs/: a job that waits holds no runner; a parent and its children, whatever dies in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Conflict, InvalidRequest, NinestoryError
from ninestory.core.progress import Silent
from ninestory.core.state import State
from ninestory.jobs.runner import JobRunner
from ninestory.jobs.store import SCHEMA, Claim, JobStore
from ninestory.runtimes.protocol import JobContext
from tests.job_context import contexts


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(State(tmp_path / "state.db"))


def claimed(store: JobStore, kind: str) -> Claim:
    claim = store.claim([kind])
    assert claim is not None
    return claim


def double(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
    if params["n"] < 0:
        raise InvalidRequest("n is negative.")
    return {"n": 2 * params["n"]}


def test_a_parent_holds_no_runner_and_is_given_each_child_s_result_once(store: JobStore) -> None:
    entered = []

    def parent(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
        state = context.progress.resume or {"sums": []}
        entered.append(list(state["sums"]))
        while len(state["sums"]) < 3:  # the same call each time: a checkpoint between makes it another child
            child = context.progress.child("double", {"n": 21})
            state["sums"].append(child and child["n"])
            context.progress.checkpoint(state)
        twins = [context.progress.child("double", {"n": 1}) for _ in range(2)]
        return {"sums": state["sums"], "twins": twins}

    runner = JobRunner(store, {"parent": parent, "double": double}, contexts(store))
    job = runner.run(store.create("parent", {}).id)
    assert job is not None and (job.state, job.attempts) == ("waiting", 0) and "double" in job.message
    assert [each.parent for each in store.list(kind="double")] == [job.id]
    runner.run_until_idle(0)
    ended = store.get(job.id)
    assert ended.result == {"sums": [42, 42, 42], "twins": [{"n": 2}, {"n": 2}]}, ended
    assert len(store.list(kind="double")) == 5
    assert entered == [[], [], [42], [42, 42], [42, 42, 42], [42, 42, 42]]


def test_an_approval_that_comes_before_the_job_is_put_aside_is_not_lost(store: JobStore) -> None:
    asked, decided = [], threading.Event()

    def agent(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
        if not decided.is_set():
            asked.append(1)
            if len(asked) == 2:  # between the look and the wait
                decided.set()
                store.wake(job.id)
            context.progress.wait("approval of a command")
        return {"asked": len(asked)}

    runner = JobRunner(store, {"agent": agent}, contexts(store))
    job = store.create("agent", {})
    runner.run_until_idle(0)
    waiting = store.get(job.id)
    assert (waiting.state, waiting.message) == ("waiting", "approval of a command")
    assert runner.run(job.id) is None and store.count_claimable(["agent"]) == 0
    store.wake(job.id)
    runner.run_until_idle(0)
    assert store.get(job.id).result == {"asked": 2}
    store.wake(job.id)
    assert store.get(job.id).state == "succeeded"


def test_a_handler_that_swallows_the_unwinding_is_unwound_at_its_next_report(store: JobStore) -> None:
    def stubborn(params: dict[str, Any], context: JobContext) -> None:
        try:
            context.progress.wait("somebody")
        except NinestoryError:
            context.progress.update(1)
            raise AssertionError("it went on") from None

    job = JobRunner(store, {"stubborn": stubborn}, contexts(store)).run(store.create("stubborn", {}).id)
    assert job is not None and job.state == "waiting"


def test_a_failed_child_fails_its_parent_and_resuming_the_parent_resumes_it(store: JobStore) -> None:
    def parent(params: dict[str, Any], context: JobContext) -> dict[str, Any] | None:
        return context.progress.child("double", {"n": -1})

    runner = JobRunner(store, {"parent": parent, "double": double}, contexts(store))
    job = store.create("parent", {})
    runner.run_until_idle(0)
    failed = store.get(job.id)
    assert failed.state == "failed" and failed.error is not None and failed.error["message"] == "n is negative."
    assert not failed.resumable
    store.resume(job.id)
    [child] = store.list(kind="double")
    assert child.state == "queued"
    store.cancel(child.id)
    runner.run_until_idle(0)
    stopped = store.get(job.id)
    assert stopped.error is not None and stopped.error["code"] == "child_cancelled" and stopped.resumable
    store.remove(job.id)
    assert store.list() == []


def test_cancelling_a_parent_cancels_all_below_it(store: JobStore) -> None:
    top = store.create("a", {})
    store.suspend_for_child(claimed(store, "a"), "b", "b", {})
    store.suspend_for_child(claimed(store, "b"), "c", "c", {})
    running = claimed(store, "c")
    assert store.cancel(top.id).state == "cancelled"
    assert [job.state for job in store.list()] == ["running", "cancelled", "cancelled"]
    assert store.beat(running, 0, None, "")
    assert store.suspend_for_child(running, "d", "d", {}).state == "cancelled" and not store.list(kind="d")
    assert [job.state for job in store.list()] == ["cancelled"] * 3
    with pytest.raises(Conflict):
        store.cancel(top.id)
    store.resume(top.id)
    assert {job.state for job in store.list()} == {"queued"}


def test_a_child_that_ended_before_its_parent_is_put_aside_leaves_it_in_the_queue(store: JobStore) -> None:
    store.create("a", {})
    store.suspend_for_child(claimed(store, "a"), "b", "b", {})
    child = claimed(store, "b")
    store.wake(store.list(kind="a")[0].id)
    parent = claimed(store, "a")
    store.finish(child, "succeeded")
    assert store.suspend_for_child(parent, "b", "b", {}).state == "queued"


KILLED = """
import os, sys
from pathlib import Path
from ninestory.core.state import State
from ninestory.jobs.store import JobStore

store, writes = JobStore(State(Path(sys.argv[1])), lease_seconds=0.0), int(sys.argv[2])
execute = store.state.execute
def counted(sql, parameters=()):
    global writes
    if sql.lstrip()[:6] in ("UPDATE", "INSERT", "COMMIT"):
        if not writes:
            os.kill(os.getpid(), 9)
        writes -= 1
    return execute(sql, parameters)

claim = store.claim([sys.argv[3]])
store.state.execute = counted
if sys.argv[3] == "parent":
    store.suspend_for_child(claim, "waits", "child", {})
else:
    store.finish(claim, "succeeded", result={})
"""


@pytest.mark.parametrize("killed", ["parent", "child"])
def test_kill_9_between_two_writes_leaves_both_or_none(tmp_path: Path, killed: str) -> None:
    """Before each write of suspending and of finishing, and before the commit: never a parent that waits for nobody."""
    for writes in range(4):
        store = JobStore(State(tmp_path / f"{writes}.db"))
        parent = store.create("parent", {})
        if killed == "child":
            store.suspend_for_child(claimed(store, "parent"), "waits", "child", {})
        process = subprocess.run([sys.executable, "-c", KILLED, str(store.state.path), str(writes), killed])
        children = store.list(kind="child")
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        if killed == "parent":
            assert (store.get(parent.id).state, children) == ("running", [])
        else:
            assert (store.get(parent.id).state, children[0].state) == ("waiting", "running")
    assert writes == (3 if killed == "parent" else 1)
    assert (store.get(parent.id).state, children[0].state) == (
        ("waiting", "queued") if killed == "parent" else ("queued", "succeeded")
    )


def test_two_jobs_on_one_subject_never_run_together(store: JobStore) -> None:
    first, second = (store.create("ingest", {}, subject="kb_1") for _ in range(2))
    other = store.create("ingest", {}, subject="kb_2")
    running = [claimed(store, "ingest") for _ in range(2)]
    assert [claim.job.id for claim in running] == [first.id, other.id] and store.claim(["ingest"]) is None
    assert store.count_claimable(["ingest"]) == 0
    store.finish(running[0], "succeeded")
    assert claimed(store, "ingest").job.id == second.id


def test_the_command_line_runs_the_children_of_its_job_too(store: JobStore) -> None:
    def parent(params: dict[str, Any], context: JobContext) -> dict[str, Any] | None:
        return context.progress.child("double", {"n": 4})

    runner = JobRunner(store, {"parent": parent, "double": double}, contexts(store))
    assert runner.run_new("parent", {}, Silent()).result == {"n": 8}

    def asks(params: dict[str, Any], context: JobContext) -> None:
        context.progress.wait("an answer")

    assert JobRunner(store, {"asks": asks}, contexts(store)).run_new("asks", {}, Silent()).state == "waiting"


def test_a_database_of_an_older_release_gets_the_new_columns(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.migrate("jobs", SCHEMA[:1])
    state.execute(
        "INSERT INTO jobs (id, kind, state, params, created_at, updated_at) VALUES ('job_1', 'tune', 'failed', '{}', 1, 1)"
    )
    store = JobStore(state)
    assert store.get("job_1").parent is None and store.resume("job_1").state == "queued"
