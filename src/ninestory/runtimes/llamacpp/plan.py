"""Memory of a GGUF model under llama.cpp. Checked against measured peaks by benchmarks/plan_error.py.

All of it is main memory: the pinned xllamacpp wheel is built for processors and offloads no layer. A build for CUDA
would put all layers on the cards; that is not counted, since it could not be run here.
"""

from __future__ import annotations

from ninestory.core.config import RuntimeSettings
from ninestory.core.machine import FreeMemory
from ninestory.models.plan import RAM, MemoryParts, Plan, make_plan
from ninestory.models.shapes import ModelShape, ModelSizes, kv_bytes

_MB = 1 << 20
_PROCESS_BYTES = 56 * _MB  # resident before a model is opened (measured)
_CELLS = 256  # every slot's cache is rounded up to a multiple of it
_UBATCH = 256  # tokens of one prefill step (library.py)
# Measured: what llama.cpp's tables and ours take for a token of the vocabulary, and a slot's logits and samplers
_VOCABULARY_BYTES_PER_TOKEN, _SLOT_BYTES_PER_TOKEN = 800, 20


def plan(sizes: ModelSizes, settings: RuntimeSettings, free: FreeMemory) -> Plan:
    """Plan one worker; weights, cache and prompts kept for reuse are in main memory."""
    cache = activations = 0
    if sizes.shape:
        cells = -(-sizes.context // _CELLS) * _CELLS * sizes.slots
        cache = kv_bytes(sizes.shape, cells, 2) + settings.prompt_cache_mb * _MB  # kept prompts fill it with time
        activations = _compute_bytes(sizes.shape, sizes.context, sizes.slots)
    needs = MemoryParts(
        process_bytes=_PROCESS_BYTES,
        weight_bytes=sizes.stored_bytes,
        cache_bytes=cache,
        activation_bytes=activations,
    )
    unused = ["llama.cpp as installed runs on the processor; cards are not used"] if free.cards else []
    return make_plan(
        Plan,
        free,
        {RAM: needs},
        model=sizes.model,
        runtime="llamacpp",
        context=sizes.context,
        slots=sizes.slots,
        notes=[*sizes.notes, *unused],
    )


def _compute_bytes(shape: ModelShape, context: int, slots: int) -> int:
    """What llama.cpp touches beside weights and cache: one prefill step, its mask, tokenizer, logits and samplers.

    Flash attention never holds the scores; the mask is there in 32 and in 16 bits.
    """
    step = _UBATCH * (4 * shape.hidden + shape.ffn) * 4
    mask = _UBATCH * context * 6
    return step + mask + shape.vocabulary * (_VOCABULARY_BYTES_PER_TOKEN + slots * _SLOT_BYTES_PER_TOKEN)
