"""Contexts that tests give to handlers of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ninestory.core.config import RuntimeSettings, Settings
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.core.state import State
from ninestory.jobs.runner import ContextMaker, context_maker
from ninestory.jobs.store import JobStore
from ninestory.runtimes.load import LocalEngines
from ninestory.runtimes.protocol import JobContext


def contexts(store: JobStore) -> ContextMaker:
    """Contexts whose home is the folder of the store's database."""
    home, settings = Home(store.state.path.parent), Settings()
    return context_maker(home, settings, LocalEngines(home, settings.runtime), store.state)


@contextmanager
def local_context(home: Home, runtime: RuntimeSettings, progress: Silent | None = None) -> Iterator[JobContext]:
    """A context whose models are loaded in this process, as the command line's are."""
    settings = Settings(runtime=runtime)
    with LocalEngines(home, runtime) as engines:
        yield context_maker(home.ensure(), settings, engines, State(home.state_db))(progress or Silent())
