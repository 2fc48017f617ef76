"""An ingest as a unit of long work: opens the base and the embedding model, does all that was asked, reports."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ninestory.core.config import RuntimeSettings
from ninestory.core.machine import available_bytes
from ninestory.core.paths import Home
from ninestory.core.progress import Progress
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.embedding_pool import EmbeddingPool
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, open_base
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.threads import free_processors

_FILE_BYTES_A_PROCESS = 128 << 10  # about ten seconds of embedding: less is not worth loading the model once more
_MEMORY_A_PROCESS = 600 << 20  # of the starter, with room


def run_ingest(home: Home, settings: RuntimeSettings, params: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Ingest what is pending in a knowledge base.

    Args:
        params: `knowledge_base`: name or id; `folders`: folders to compare with first; `report`: counts and failures
            of what the caller did before (registering files).

    Returns:
        The `IngestReport` as plain data.
    """
    with open_base(home, params["knowledge_base"]) as base:
        return _ingested(base, home, settings, params, progress)


def _ingested(
    base: KnowledgeBase, home: Home, settings: RuntimeSettings, params: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    report = IngestReport(**params.get("report", {}))
    for folder in params.get("folders", []):
        sync_folder(base, Path(folder), report)
    if not base.unfinished():
        return report.as_dict()  # nothing to embed: no model is loaded for it
    engine = load_engine(resolve(base.model, home), settings)
    try:
        processes = 1 if engine.info.runtime == "remote" else embedding_processes(base, settings)
        with EmbeddingPool(home, base.model, settings, processes) if processes > 1 else nullcontext() as pool:
            return ingest(base, Embedder(engine), progress, report, pool).as_dict()
    finally:
        engine.close()


def embedding_processes(base: KnowledgeBase, settings: RuntimeSettings) -> int:
    """How many processes embed what is pending: as the setting says, fewer where there is little to do."""
    wanted = settings.ingest_processes
    if not wanted:
        wanted = min(free_processors() - 1, available_bytes() // (2 * _MEMORY_A_PROCESS))
    pending = sum(file.bytes for file in base.files("pending"))
    return max(1, min(wanted, pending // _FILE_BYTES_A_PROCESS))
