"""What the commands over knowledge bases stand on: the embedding model, a reranker, an ingest in sight of a bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ninestory.core.errors import Cancelled, from_dict
from ninestory.core.paths import Home

if TYPE_CHECKING:
    from ninestory.floors.retrieval import Embedder, KnowledgeBase, Score


@contextmanager
def open_embedder(base: KnowledgeBase) -> Iterator[Embedder]:
    """The embedding model that a knowledge base's published table wants."""
    from ninestory.core.config import load_settings
    from ninestory.floors.retrieval import Embedder
    from ninestory.runtimes.load import LocalEngines

    model = base.published.model if base.published else base.model
    local = LocalEngines(Home.default(), load_settings().settings.runtime)
    with local as engines, engines.get(model, "embedding") as engine:
        yield Embedder(engine)


@contextmanager
def open_scorer(reranker: str, embedder: Embedder) -> Iterator[Score | None]:
    """What `--rerank` names: nothing, late interaction with the embedding model, or a reranker of its own."""
    from ninestory.core.config import load_settings
    from ninestory.floors.retrieval import LATE
    from ninestory.floors.retrieval import rerank_scorer as scorer
    from ninestory.runtimes.load import LocalEngines

    if reranker in ("", LATE):
        yield scorer(embedder.engine) if reranker else None
        return
    local = LocalEngines(Home.default(), load_settings().settings.runtime)
    with local as engines, engines.get(reranker, "rerank") as engine:
        yield scorer(engine)


def run_ingest(base: KnowledgeBase, params: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Run it here as a job, in sight of a bar; the report names files that failed, which do not fail the command."""
    from ninestory.core.config import load_settings
    from ninestory.core.logs import set_up_logs
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.core.state import State
    from ninestory.jobs.handlers import load_job_handlers
    from ninestory.jobs.runner import JobRunner, context_maker
    from ninestory.jobs.store import JobStore
    from ninestory.runtimes.load import LocalEngines

    home, settings = Home.default().ensure(), load_settings().settings
    set_up_logs("warning", settings.log_json)
    with LocalEngines(home, settings.runtime) as engines, ProgressBar(quiet=quiet, counts=True) as bar:
        state = State(home.state_db)
        runner = JobRunner(
            JobStore(state), load_job_handlers(["ingest"]), context_maker(home, settings, engines, state)
        )
        job = runner.run_new("ingest", {"knowledge_base": base.id, **params}, bar)
    if job.error:
        raise from_dict(job.error)
    if job.state == "cancelled":
        raise Cancelled(
            "The ingest was cancelled; what was read so far is kept.",
            hint=f"'ninestory jobs resume {job.id}' goes on.",
            hint_zh=f"运行 ninestory jobs resume {job.id} 可继续。",
        )
    return job.result or {}
