"""Embedding in several processes: the same table as in one, a failed file alone, a dead process named, a cancel heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, NinestoryError
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval import jobs
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.embedders import Embedders
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, create
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.runtimes.engine_process import EngineProcesses
from ninestory.runtimes.load import LocalEngines
from tests import tiny_models
from tests.job_context import local_context

FILES = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.write_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for n in range(FILES):
        text = "\n\n".join(f"word{n % 20} word{part % 20} is number {n} of part {part}." for part in range(n % 7 + 1))
        (folder / f"{n:02}.txt").write_text(text, encoding="utf-8")
    (folder / "20.pdf").write_bytes(b"%PDF-1.7 broken")
    return folder


def table_of(base: KnowledgeBase) -> list[tuple[Any, ...]]:
    reader = ChunkReader(base)
    assert reader.refresh()
    rows = reader.all_rows(["file", "ordinal", "text", "start", "end", "vector"]).to_pylist()
    return [tuple(map(str, row.values())) for row in rows]  # in the order they were written


def pending(tmp_path: Path, model: str, docs: Path, name: str) -> KnowledgeBase:
    base = create(Home(tmp_path / "home"), name, model=model)
    sync_folder(base, docs, IngestReport())
    return base


def test_the_table_is_the_same_with_one_process_and_with_two(
    tmp_path: Path, model: str, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_FILE_BYTES_A_PROCESS", 256)
    tables = []
    for processes in (1, 2):
        base = pending(tmp_path, model, docs, f"with {processes}")
        settings = RuntimeSettings(threads=1, ingest_processes=processes)
        assert jobs.embedding_processes(base, settings) == processes
        home = Home(tmp_path / "home")
        with local_context(home, settings) as context:
            report = jobs.run_ingest({"knowledge_base": base.id}, context)
        assert report["indexed"] == FILES and [f["file"] for f in report["failed"]] == ["20.pdf"]
        tables.append(table_of(base))
    assert tables[0] == tables[1] and len(tables[0]) >= FILES


def test_a_small_ingest_loads_the_model_once(tmp_path: Path, model: str, docs: Path) -> None:
    base = pending(tmp_path, model, docs, "small")
    assert jobs.embedding_processes(base, RuntimeSettings(ingest_processes=8)) == 1


class _CancelsAfter(Silent):
    def checkpoint(self, state: dict[str, Any]) -> None:
        self.cancelled = state["done"] >= 5


def test_a_dead_process_is_named_and_a_cancelled_ingest_goes_on(tmp_path: Path, model: str, docs: Path) -> None:
    home, settings = Home(tmp_path / "home"), RuntimeSettings(threads=1)
    base = pending(tmp_path, model, docs, "killed")
    with LocalEngines(home, settings) as engines, engines.get(model, "embedding", workers=2) as engine:
        assert isinstance(engine, EngineProcesses) and engine.info.slots == 2
        embedder = Embedder(engine)
        with Embedders(embedder, 2) as pool, pytest.raises(Cancelled):
            ingest(base, embedder, _CancelsAfter(), pool=pool)
        assert 0 < len(base.files("pending")) < FILES
        for process in engine.processes:
            process.kill()
        with Embedders(embedder, 2) as pool, pytest.raises(NinestoryError) as caught:
            ingest(base, embedder, Silent(), pool=pool)
        assert caught.value.code == "worker_died" and base.published is None
    with LocalEngines(home, settings) as engines, engines.get(model, "embedding", workers=2) as engine:
        embedder = Embedder(engine)
        with Embedders(embedder, 2) as pool:
            ingest(base, embedder, Silent(), pool=pool)
    rows = table_of(base)
    assert len(base.files("indexed")) == FILES and len({row[:2] for row in rows}) == len(rows)
