"""Memory of a worker that speaks to a remote endpoint: the process alone."""

from __future__ import annotations

from ninestory.core.config import RuntimeSettings
from ninestory.core.machine import FreeMemory
from ninestory.models.plan import RAM, MemoryParts, Plan, make_plan
from ninestory.models.shapes import ModelSizes

_PROCESS_BYTES = 60 << 20  # measured


def plan(sizes: ModelSizes, settings: RuntimeSettings, free: FreeMemory) -> Plan:
    """Plan one worker."""
    needs = {RAM: MemoryParts(process_bytes=_PROCESS_BYTES)}
    return make_plan(Plan, free, needs, model=sizes.model, runtime="remote", context=0, slots=1, notes=[*sizes.notes])
