"""The kinds of job this version can run: a name and the function that does the work.

Importing this module imports no floor; building the table for a process that runs jobs does not either.
"""

from __future__ import annotations

from typing import Any

from ninestory.core.config import Settings
from ninestory.core.paths import Home
from ninestory.core.progress import Progress
from ninestory.jobs.runner import Work
from ninestory.runtimes.protocol import EngineProvider

KINDS = ("pull", "ingest", "tune", "inspect")


def works(home: Home, settings: Settings, engines: EngineProvider) -> dict[str, Work]:
    """The function of each kind, for a `JobRunner`.

    Args:
        engines: lends them the models they need.
    """

    def pull_model(params: dict[str, Any], progress: Progress) -> dict[str, Any]:
        from ninestory.models.pull import pull

        model = pull(params["model"], home, settings.hub, progress)
        return {"model": model.reference, "bytes": model.total_bytes, "licence": model.licence}

    def ingest_documents(params: dict[str, Any], progress: Progress) -> dict[str, Any]:
        from ninestory.floors.retrieval import run_ingest

        return run_ingest(home, engines, settings.runtime, params, progress)

    def tune_model(params: dict[str, Any], progress: Progress) -> dict[str, Any]:
        from ninestory.floors.recipes import find_kind, recipe_from_dict

        recipe = recipe_from_dict(params["recipe"])
        run = find_kind(recipe.kind).run
        return run(recipe, home, progress, force=params["force"], suffix=params.get("suffix", "")).as_dict()

    def inspect_data(params: dict[str, Any], progress: Progress) -> dict[str, Any]:
        from ninestory.floors.recipes import find_kind, recipe_from_dict

        recipe = recipe_from_dict(params["recipe"])
        return find_kind(recipe.kind).inspect(recipe, home, progress, suffix=params.get("suffix", "")).as_dict()

    return {"pull": pull_model, "ingest": ingest_documents, "tune": tune_model, "inspect": inspect_data}
