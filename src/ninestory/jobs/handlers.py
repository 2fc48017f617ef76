"""What each kind of job does: those of no floor here, a floor's by `floors/table.py`. Importing this loads no floor."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ninestory.floors.table import FLOORS, load_part
from ninestory.runtimes.protocol import JobContext, JobHandler


def pull_model(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Fetch a model. `params`: `model`, its reference."""
    from ninestory.models.pull import pull

    model = pull(params["model"], context.home, context.settings.hub, context.progress)
    return {"model": model.reference, "bytes": model.total_bytes, "licence": model.licence}


def tune_model(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Run a recipe. `params`: `recipe`; `force` past the memory plan; `suffix` of data files whose name has none."""
    from ninestory.floors.recipes import find_kind, recipe_from_dict

    recipe, suffix = recipe_from_dict(params["recipe"]), params.get("suffix", "")
    run = find_kind(recipe.kind).run
    result: dict[str, Any] = run(recipe, context.home, context.progress, force=params["force"], suffix=suffix).as_dict()
    return result


def inspect_data(params: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Look at what a recipe would learn from. `params` as of `tune_model`."""
    from ninestory.floors.recipes import find_kind, recipe_from_dict

    recipe, suffix = recipe_from_dict(params["recipe"]), params.get("suffix", "")
    inspection = find_kind(recipe.kind).inspect(recipe, context.home, context.progress, suffix=suffix)
    result: dict[str, Any] = inspection.as_dict()
    return result


def plan_tuning_memory(params: dict[str, Any], context: JobContext) -> dict[str, int]:
    """Predict the bytes of each device that a recipe's run needs; none where its model states no shape."""
    from ninestory.floors.recipes import find_kind, recipe_from_dict

    recipe, suffix = recipe_from_dict(params["recipe"]), params.get("suffix", "")
    plan = find_kind(recipe.kind).plan(recipe, context.home, context.progress, suffix=suffix)
    needed: dict[str, int] = plan.needed if plan else {}
    return needed


JOB_HANDLERS: dict[str, JobHandler] = {"pull": pull_model, "tune": tune_model, "inspect": inspect_data}
_LANES = {"pull": "short", "tune": "long", "inspect": "short"}


def job_lanes() -> dict[str, str]:
    """Every kind of job with the lane it runs in."""
    return _LANES | {kind.name: kind.lane for floor in FLOORS.values() for kind in floor.job_kinds}


def load_job_handlers(kinds: Collection[str] | None = None) -> dict[str, JobHandler]:
    """Load the handlers of these kinds, or of all, with the floors that they belong to."""
    handlers = dict(JOB_HANDLERS)
    for floor in FLOORS.values():
        if floor.job_handlers and (kinds is None or any(kind.name in kinds for kind in floor.job_kinds)):
            handlers |= load_part(floor.job_handlers)
    return {kind: handler for kind, handler in handlers.items() if kinds is None or kind in kinds}


def planned_memory(kind: str, params: dict[str, Any], context: JobContext) -> dict[str, int]:
    """Predict the bytes of each device that a job needs in its own process, beside the models that it is lent."""
    return plan_tuning_memory(params, context) if kind == "tune" else {}
