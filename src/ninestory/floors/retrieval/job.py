"""An ingest as a unit of long work: opens the base and the embedding model, does all that was asked, reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.core.progress import Progress
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import open_base
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine


def run_ingest(home: Home, settings: RuntimeSettings, params: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Ingest what is pending in a knowledge base.

    Args:
        params: `knowledge_base`: name or id; `folders`: folders to compare with first; `report`: counts and failures
            of what the caller did before (registering files).

    Returns:
        The `IngestReport` as plain data.
    """
    base = open_base(home, params["knowledge_base"])
    report = IngestReport(**params.get("report", {}))
    for folder in params.get("folders", []):
        sync_folder(base, Path(folder), report)
    if not base.unfinished():
        return report.as_dict()  # nothing to embed: no model is loaded for it
    engine = load_engine(resolve(base.model, home), settings)
    try:
        return ingest(base, Embedder(engine), progress, report).as_dict()
    finally:
        engine.close()
        base.close()
