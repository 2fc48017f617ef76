"""Memory of a checkpoint under torch: in main memory, or on NVIDIA's cards where there are any. Imports no torch.

The figures for a processor follow measurements. Those for cards are arithmetic only: nothing could be run on a card.

Which layer goes to which card is said here, for the plan and for the loader alike (`place_layers`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata

from ninestory.core.config import RuntimeSettings
from ninestory.core.machine import FreeMemory, Gpu, free_memory
from ninestory.core.tasks import VERBS
from ninestory.models.plan import RAM, MemoryParts, Plan, make_plan
from ninestory.models.shapes import ModelSizes, kv_bytes, parameters

_MB = 1 << 20
PROCESS_BYTES = 330 * _MB  # resident before a model is opened (measured)
CUDA_CONTEXT_BYTES = 350 * _MB  # of each process on each card, with cuBLAS's workspace; published figures vary
_CHUNK = 64  # tokens of one prefill step (slots.CHUNK)
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PACKED_BYTES = {"int8": 1.0, "int4": 4.127 / 8}  # of a weight: LLM.int8(); NF4, doubly quantised in blocks of 64
# Of a packed weight at the peak of its product: codes, zero points, scales and values, whichever stand together
_WIDENED_BYTES = {"gptq": 12, "int4": 6, "int8": 4, "nf4": 6, "": 0}


@dataclass(frozen=True)
class Placement:
    """Card of each whole block of a decoder. Several cards are worked through one after another."""

    embedding: str
    layers: tuple[str, ...]
    head: str

    @property
    def cards(self) -> list[str]:
        """The cards that are used, in their order."""
        return sorted({self.embedding, *self.layers, self.head})


@dataclass(frozen=True)
class _CardSizes:
    """Bytes of a model on cards: of each layer with its cache, of embedding and head, and on every card that is used."""

    layer_weights: int
    layer_cache: int
    table: int
    activations: int


def plan(sizes: ModelSizes, settings: RuntimeSettings, free: FreeMemory) -> Plan:
    """Plan one worker with the settings it would be loaded with."""
    if "chat" not in sizes.tasks:
        return _plan_weights(sizes, free)
    cards = usable_cards(sizes, settings, free)
    needs, notes = (_on_cards if cards else _on_processor)(sizes, settings, cards)
    notes = [*sizes.notes, *notes]
    if cards and installed_device(settings) == "cpu":
        notes.append(
            f"torch {metadata.version('torch')} is built without CUDA: until another is installed, models take main memory"
        )
    return make_plan(
        Plan,
        free,
        needs,
        model=sizes.model,
        runtime="torch",
        context=sizes.context,
        slots=sizes.slots,
        notes=notes,
    )


def usable_cards(sizes: ModelSizes, settings: RuntimeSettings, free: FreeMemory) -> dict[str, Gpu]:
    """The cards that `settings.device` allows: all of them unless it names one of them, or the processor."""
    if settings.rwkv_strategy and sizes.family == "rwkv":
        return {}  # it names devices by itself
    if settings.device in ("", "cuda"):
        return free.cards
    return {name: card for name, card in free.cards.items() if name == settings.device}


def installed_device(settings: RuntimeSettings) -> str:
    """`settings.device`, or "cpu" where none is named and the installed torch is built without CUDA."""
    if settings.device:
        return settings.device
    try:
        return "cpu" if metadata.version("torch").endswith("+cpu") else ""
    except metadata.PackageNotFoundError:
        return ""


def installed_memory() -> FreeMemory:
    """What the devices that the installed torch can use have free."""
    free = free_memory()
    return replace(free, cards={}) if installed_device(RuntimeSettings()) == "cpu" else free


def place(sizes: ModelSizes, settings: RuntimeSettings, free: FreeMemory) -> Placement | None:
    """Where the loader puts a decoder's blocks; None where no card is used, or no shape is known.

    One card where all of it fits. Else every card takes whole layers, the largest blocks first, each on the card with
    most left, as accelerate's device maps do; a layer is never cut. What exceeds the cards is not offloaded: the
    model is refused. Weights that are packed while loading (int8, int4) and RWKV stay on one card.
    """
    cards = usable_cards(sizes, settings, free)
    if not cards or sizes.shape is None:
        return None
    blocks = _card_sizes(sizes, settings)
    tables = 1 if sizes.tied else 2
    layer = blocks.layer_weights + blocks.layer_cache
    fixed = CUDA_CONTEXT_BYTES + blocks.activations
    whole = fixed + sizes.shape.layers * layer + tables * blocks.table
    freest = max(cards, key=lambda name: cards[name].free_bytes)
    shared = _shared(cards, fixed, layer, blocks.table, sizes.shape.layers, tables)
    one = Placement(freest, (freest,) * sizes.shape.layers, freest)
    if whole <= cards[freest].free_bytes or shared is None or sizes.packs_while_loading(settings.dtype):
        return one
    return shared


def _shared(cards: Mapping[str, Gpu], fixed: int, layer: int, table: int, layers: int, tables: int) -> Placement | None:
    """Whole blocks over several cards, or None where they do not fit there either."""
    left = {name: card.free_bytes - fixed for name, card in cards.items() if card.free_bytes > fixed}
    blocks = [(table, "table")] * tables + [(layer, "layer")] * layers
    homes: list[tuple[str, str]] = []
    for nbytes, kind in sorted(blocks, reverse=True):
        card = max(left, key=left.__getitem__, default="")
        if not card or left[card] < nbytes:
            return None
        left[card] -= nbytes
        homes.append((kind, card))
    counts = Counter(card for kind, card in homes if kind == "layer")
    own_tables = [card for kind, card in homes if kind == "table"]
    # The embedding's card comes first and the head's last, so that a token crosses as rarely as can be.
    order = sorted(counts, key=lambda card: (card == own_tables[-1]) - (card == own_tables[0]))
    return Placement(own_tables[0], tuple(card for card in order for _ in range(counts[card])), own_tables[-1])


def _on_cards(
    sizes: ModelSizes, settings: RuntimeSettings, cards: Mapping[str, Gpu]
) -> tuple[dict[str, MemoryParts], list[str]]:
    """Weights, cache and activations on the cards; in main memory the process and what loading holds."""
    blocks = _card_sizes(sizes, settings)
    placement = place(sizes, settings, FreeMemory(0, dict(cards)))
    needs = {}
    if placement is None:  # a recurrent model, or one of unknown shape
        needs[next(iter(cards))] = MemoryParts(
            process_bytes=CUDA_CONTEXT_BYTES,
            weight_bytes=_weight_bytes(sizes, settings),
            cache_bytes=2 * sizes.slots * sizes.state_bytes,
        )
    else:
        homes = (placement.embedding,) if sizes.tied else (placement.embedding, placement.head)
        for card in placement.cards:
            layers = placement.layers.count(card)
            needs[card] = MemoryParts(
                process_bytes=CUDA_CONTEXT_BYTES,
                weight_bytes=layers * blocks.layer_weights + homes.count(card) * blocks.table,
                cache_bytes=layers * blocks.layer_cache,
                activation_bytes=blocks.activations,
            )
    loading = blocks.table  # one tensor after another passes through main memory
    if sizes.packs_while_loading(settings.dtype):
        loading = _parameters(sizes) * 2  # read whole in float16, then packed
    needs[RAM] = MemoryParts(process_bytes=PROCESS_BYTES, activation_bytes=loading)
    return needs, ["figures for cards are arithmetic, not measured", *_state_notes(sizes)]


def _on_processor(
    sizes: ModelSizes, settings: RuntimeSettings, cards: Mapping[str, Gpu]
) -> tuple[dict[str, MemoryParts], list[str]]:
    itemsize = 1 if settings.dtype == "int8" else _DTYPE_BYTES.get(settings.dtype, 4)
    cache, activations = 2 * sizes.slots * sizes.state_bytes, 0
    if shape := sizes.shape:
        cache = kv_bytes(shape, sizes.context * sizes.slots, 2 if itemsize == 2 else 4)
        activations = _CHUNK * (4 * shape.hidden + 2 * shape.ffn) * 4 + sizes.slots * shape.vocabulary * 4 * 3
        activations += _WIDENED_BYTES[sizes.packing] * shape.hidden * shape.ffn
    needs = MemoryParts(
        process_bytes=PROCESS_BYTES,
        weight_bytes=sizes.stored_bytes if sizes.packing else _parameters(sizes) * itemsize,
        cache_bytes=cache,
        activation_bytes=activations,
    )
    return {RAM: needs}, _state_notes(sizes)


def _plan_weights(sizes: ModelSizes, free: FreeMemory) -> Plan:
    """Plan a model of which only the weights are counted: one that draws, sees, hears or speaks."""
    used_by = f"{', '.join(sizes.tasks)}: used by 'ninestory {VERBS[sizes.tasks[0]]}'" if sizes.tasks else ""
    needs = MemoryParts(process_bytes=PROCESS_BYTES, weight_bytes=sizes.stored_bytes)
    return make_plan(
        Plan,
        free,
        {RAM: needs},
        model=sizes.model,
        runtime="torch",
        context=0,
        slots=1,
        notes=[used_by or "no model by itself", "only weights and process are counted, in main memory"],
    )


def _card_sizes(sizes: ModelSizes, settings: RuntimeSettings) -> _CardSizes:
    shape = sizes.shape
    if shape is None:
        return _CardSizes(0, 0, 0, 0)
    itemsize = _card_itemsize(sizes, settings)
    table = shape.vocabulary * shape.hidden * itemsize
    weights = _weight_bytes(sizes, settings) - table * (1 if sizes.tied else 2)
    # ChatGLM's context sees itself both ways, so a prompt is computed whole.
    tokens = sizes.context if sizes.family == "chatglm" else _CHUNK
    activations = tokens * (4 * shape.hidden + 2 * shape.ffn) * itemsize + sizes.slots * shape.vocabulary * 4 * 3
    activations += _WIDENED_BYTES[sizes.packing] * shape.hidden * shape.ffn
    return _CardSizes(
        layer_weights=weights // shape.layers,
        layer_cache=kv_bytes(replace(shape, layers=1), sizes.context * sizes.slots, itemsize),
        table=table,
        activations=activations,
    )


def _card_itemsize(sizes: ModelSizes, settings: RuntimeSettings) -> int:
    """Bytes of a weight that is not packed, and of cache and activations: of the type asked for, else as stored."""
    if settings.dtype in _PACKED_BYTES:
        return 2
    return _DTYPE_BYTES.get(settings.dtype, sizes.itemsize)


def _weight_bytes(sizes: ModelSizes, settings: RuntimeSettings) -> int:
    if sizes.packing:
        return sizes.stored_bytes
    count = _parameters(sizes)
    if not sizes.packs_while_loading(settings.dtype) or sizes.shape is None:
        return count * _card_itemsize(sizes, settings)
    tables = sizes.shape.vocabulary * sizes.shape.hidden * (1 if sizes.tied else 2)
    return int((count - tables) * _PACKED_BYTES[settings.dtype]) + tables * 2


def _parameters(sizes: ModelSizes) -> int:
    """Number of weights, by the size of the files; where that is not known, by the shape."""
    if sizes.stored_bytes or sizes.shape is None:
        return sizes.stored_bytes // sizes.itemsize
    return parameters(sizes.shape)


def _state_notes(sizes: ModelSizes) -> list[str]:
    return ["the state of a text has one size, whatever its length"] if sizes.state_bytes else []
