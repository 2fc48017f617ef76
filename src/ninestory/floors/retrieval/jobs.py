"""An ingest as a unit of long work: opens the base and the embedding model, does all that was asked, reports."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import DoesNotFit
from ninestory.core.machine import available_bytes
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.embedders import Embedders
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, open_base
from ninestory.models.reference import parse_reference
from ninestory.runtimes.protocol import Engine, EngineProvider, JobContext, JobHandler
from ninestory.runtimes.threads import free_processors

log = logging.getLogger("ninestory.retrieval")
_FILE_BYTES_A_PROCESS = 128 << 10  # about ten seconds of embedding: less is not worth loading the model once more
_MEMORY_A_PROCESS = 600 << 20  # of the starter, with room


def run_ingest(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Ingest what is pending in a knowledge base; the embedding model is lent in several processes for a large one.

    Args:
        params: `knowledge_base`: name or id; `folders`: folders to compare with first; `report`: counts and failures
            of what the caller did before (registering files).

    Returns:
        The `IngestReport` as plain data.
    """
    with open_base(context.home, params["knowledge_base"]) as base:
        report = IngestReport(**params.get("report", {}))
        for folder in params.get("folders", []):
            sync_folder(base, Path(folder), report, context.progress)
        if not base.unfinished():
            return report.as_dict()  # nothing to embed: no model is loaded for it
        with _embedding_engine(context.engines, base, context.settings.runtime) as (engine, processes):
            embedder = Embedder(engine)
            with Embedders(embedder, processes) if processes > 1 else nullcontext() as several:
                return ingest(base, embedder, context.progress, report, several).as_dict()


@contextmanager
def _embedding_engine(
    engines: EngineProvider, base: KnowledgeBase, settings: RuntimeSettings
) -> Iterator[tuple[Engine, int]]:
    """The knowledge base's embedding model and how many processes it has: one where several do not fit."""
    remote = parse_reference(base.model).scheme == "openai"
    processes = 1 if remote else embedding_processes(base, settings)
    lent = engines.get(base.model, "embedding", workers=processes)
    try:
        engine = lent.__enter__()
    except DoesNotFit as error:
        if processes == 1:
            raise
        log.warning("embedding in one process: %s", error.message)
        lent, processes = engines.get(base.model, "embedding"), 1
        engine = lent.__enter__()
    try:
        yield engine, processes
    finally:
        lent.__exit__(None, None, None)


def embedding_processes(base: KnowledgeBase, settings: RuntimeSettings) -> int:
    """How many processes embed what is pending: as the setting says, fewer where there is little to do."""
    wanted = settings.ingest_processes
    if not wanted:
        wanted = min(free_processors() - 1, available_bytes() // (2 * _MEMORY_A_PROCESS))
    pending = sum(file.bytes for file in base.files("pending"))
    return max(1, min(wanted, pending // _FILE_BYTES_A_PROCESS))


JOB_HANDLERS: dict[str, JobHandler] = {"ingest": run_ingest}
