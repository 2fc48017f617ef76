"""Hundreds of knowledge bases and few descriptors: none is left open, whatever is asked."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from ninestory.core.errors import NinestoryError, NotFound
from ninestory.core.paths import Home
from ninestory.floors.retrieval.knowledge_base import (
    KnowledgeBase,
    base_ids,
    create,
    each_base,
    open_base,
    open_by_id,
    sweep,
)
from ninestory.serving import knowledge_process
from ninestory.serving.knowledge_process import Readers
from tests.e2e.api_server import ApiServer

STORES, DESCRIPTORS = 220, 256


def copied(home: Home, count: int) -> None:
    """`count` empty knowledge bases, made from one: their folders are their identity."""
    with create(home, "a store") as base:
        base.settle()
        folder = base.folder
    for number in range(count - 1):
        shutil.copytree(folder, home.kb / f"vs_{number:024x}")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The ids of knowledge bases in the order they are opened."""
    ids: list[str] = []
    real = KnowledgeBase.__init__

    def noting(base: KnowledgeBase, folder: Path) -> None:
        ids.append(folder.name)
        real(base, folder)

    monkeypatch.setattr(KnowledgeBase, "__init__", noting)
    yield ids


def test_an_id_opens_its_own_folder_and_an_unknown_one_none(tmp_path: Path, opened: list[str]) -> None:
    home = Home(tmp_path)
    copied(home, 5)
    own = base_ids(home)[0]
    opened.clear()
    for unknown in (f"vs_{0xABC:024x}", "nope1", "", "vs_", "../kb", "a store"):
        with pytest.raises(NotFound):
            open_by_id(home, unknown)
    assert opened == []
    open_by_id(home, own).close()
    open_base(home, own).close()
    assert opened == [own, own]


def test_listing_has_one_open_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    copied(home, 40)
    before = psutil.Process().num_fds()
    held = [psutil.Process().num_fds() - before for _ in each_base(home)]
    assert len(held) == 40 and max(held) <= 3  # a database with its log and its index
    assert psutil.Process().num_fds() == before


def test_a_damaged_base_leaves_no_descriptor(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with create(home, "soon damaged") as base:
        base.settle()
    (base.folder / "kb.db").write_bytes(b"no database" * 1000)
    before = psutil.Process().num_fds()
    kept = []
    for _ in range(10):
        with pytest.raises(NinestoryError) as fault:
            open_by_id(home, base.id)
        kept.append(fault)  # with its traceback and frames: the garbage collector cannot close anything
    assert psutil.Process().num_fds() == before


def test_the_reading_process_keeps_a_few_bases_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge_process, "OPEN_BASES", 4)
    home = Home(tmp_path)
    copied(home, 12)
    readers, before = Readers(home), psutil.Process().num_fds()
    for base_id in base_ids(home):
        assert readers.answer({"op": "passages", "base": base_id, "file": "f", "first": 0, "last": 1}) == []
    assert psutil.Process().num_fds() - before <= 4 * 3


def test_what_killed_processes_left_is_swept_at_the_start(tmp_path: Path) -> None:
    home = Home(tmp_path)
    copied(home, 2)
    for name in (".gone-vs_1", ".new-vs_2", ".new-vs_3"):
        shutil.copytree(home.kb / base_ids(home)[0], home.kb / name)
    os.utime(home.kb / ".new-vs_2", (0, 0))
    sweep(home)
    assert {path.name for path in home.kb.iterdir()} == {*base_ids(home), ".new-vs_3"}  # somebody may be making it


@pytest.mark.slow
def test_hundreds_of_stores_under_a_low_limit_of_descriptors(tmp_path: Path) -> None:
    """The limit holds for the server alone: it is started with it."""
    home = Home(tmp_path / "home")
    copied(home, STORES)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    try:
        server = ApiServer(home.root).start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with ThreadPoolExecutor(8) as clients, httpx.Client(base_url=server.url, timeout=60) as http:
        try:
            first = http.get("/v1/vector_stores?limit=100").raise_for_status().json()
            process = psutil.Process(server.process.pid)
            before = process.num_fds()
            asked = [f"/v1/vector_stores/nope{number}" for number in range(200)] + ["/v1/vector_stores?limit=100"] * 4
            statuses = list(clients.map(lambda path: http.get(path).status_code, asked))
            assert statuses == [404] * 200 + [200] * 4
            listed, after = [], ""
            while True:
                page = http.get(f"/v1/vector_stores?limit=100{after}").raise_for_status().json()
                listed += [store["id"] for store in page["data"]]
                if not page["has_more"]:
                    break
                after = f"&after={page['last_id']}"
            assert len(listed) == len(set(listed)) == STORES and len(first["data"]) == 100
            http.get("/health").raise_for_status()
            assert process.num_fds() - before <= 10  # connections of the clients
        finally:
            server.stop()
