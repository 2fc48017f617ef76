"""The context that tests of `jobs/` give to their handlers: only its progress is used."""

from __future__ import annotations

from pathlib import Path

from ninestory.core.config import Settings
from ninestory.core.paths import Home
from ninestory.core.progress import JobProgress
from ninestory.runtimes.load import LocalEngines
from ninestory.runtimes.protocol import JobContext


def make_context(progress: JobProgress) -> JobContext:
    """A context without a home and without models."""
    home, settings = Home(Path("/nonexistent")), Settings()
    return JobContext(home=home, settings=settings, progress=progress, engines=LocalEngines(home, settings.runtime))
