"""What every route is given. Made once by `gateway.create_app`; no module holds state of its own."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ninestory.core.config import Loaded, Settings
from ninestory.core.paths import Home
from ninestory.core.state import State
from ninestory.jobs.store import JobStore
from ninestory.serving.guard import KeyCheck
from ninestory.serving.metrics import Metrics
from ninestory.serving.pool import Pool


@dataclass
class GatewayContext:
    loaded_settings: Loaded
    home: Home
    pool: Pool
    state: State
    jobs: JobStore
    keys: KeyCheck
    metrics: Metrics
    started_at: float = field(default_factory=time.time)
    stopping: bool = False  # set by the signal that ends the server: endless streams end themselves
    requests: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=500))

    @property
    def settings(self) -> Settings:
        return self.loaded_settings.settings
