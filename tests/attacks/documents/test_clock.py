"""A clock that is set back by a day: jobs of dead runners are taken up, those of living ones are not, bases stay whole."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.core.state import State
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, ingest
from ninestory.floors.retrieval.knowledge_base import create
from ninestory.floors.retrieval.verify import verify_base
from ninestory.jobs.store import JobStore, LeaseLost
from tests.hashing_engine import HashingEngine

DAY = 86_400.0


def set_back(monkeypatch: pytest.MonkeyPatch, seconds: float = DAY) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - seconds)


def test_a_dead_runners_job_does_not_wait_for_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(State(tmp_path / "state.db"))
    dead = store.create_claimed("ingest", {})
    set_back(monkeypatch)
    assert store.count_claimable(["ingest"])
    taken = store.claim(["ingest"])
    assert taken is not None and taken.job.id == dead.job.id
    with pytest.raises(LeaseLost):
        store.finish(dead, "succeeded")


def test_a_living_runner_keeps_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(State(tmp_path / "state.db"))
    claim = store.create_claimed("ingest", {})
    set_back(monkeypatch, 5)  # less than a lease: nothing is noticed
    assert not store.count_claimable(["ingest"])
    set_back(monkeypatch)
    store.beat(claim, 1, 2, "")
    assert not store.count_claimable(["ingest"]) and store.claim(["ingest"]) is None
    store.finish(claim, "succeeded")


def test_an_ingest_after_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = create(Home(tmp_path / "home"), "notes", model="test:hashing")
    for day in ("today", "yesterday"):
        (tmp_path / f"{day}.md").write_text(f"# Apples\nApples of {day}.\n", encoding="utf-8")
        add_paths(base, [tmp_path / f"{day}.md"], IngestReport())
        assert ingest(base, Embedder(HashingEngine()), Silent()).indexed == 1
        set_back(monkeypatch)
    assert [file.name for file in base.files("indexed")] == ["today.md", "yesterday.md"] and verify_base(base) == []
