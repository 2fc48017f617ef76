"""Memory of a sentence encoder under ONNX Runtime, which runs on the processor."""

from __future__ import annotations

from ninestory.core.config import RuntimeSettings
from ninestory.core.machine import FreeMemory
from ninestory.models.plan import RAM, MemoryParts, Plan, make_plan
from ninestory.models.shapes import ModelSizes

_PROCESS_BYTES = 160 << 20  # resident before a model is opened (measured)
_TOKENIZER_BYTES = 300 << 20  # the `tokenizers` package with a unigram vocabulary of 250,000 pieces


def plan(sizes: ModelSizes, settings: RuntimeSettings, free: FreeMemory) -> Plan:
    """Plan one worker: weights and tokenizer; one text is computed at a time."""
    needs = MemoryParts(process_bytes=_PROCESS_BYTES, weight_bytes=sizes.stored_bytes + _TOKENIZER_BYTES)
    return make_plan(
        Plan,
        free,
        {RAM: needs},
        model=sizes.model,
        runtime="onnx",
        context=sizes.context,
        slots=1,
        notes=[*sizes.notes],
    )
