"""Plans of a model and its variants: what is installed by its own header, what is not by the catalogue's figures.

Used by `ninestory plan`, by the page, and by the server's admission.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import NotFound
from ninestory.core.machine import FreeMemory, free_memory
from ninestory.core.paths import Home
from ninestory.models import kinds
from ninestory.models.catalogue import System, Variant, find
from ninestory.models.plan import Plan
from ninestory.models.read_sizes import sizes_of
from ninestory.models.reference import parse_reference
from ninestory.models.resolve import resolve
from ninestory.models.resolved import ResolvedModel
from ninestory.models.shapes import DEFAULT_CONTEXT, TIED_FAMILIES, ModelSizes, Packing
from ninestory.runtimes.llamacpp.plan import plan as plan_llamacpp
from ninestory.runtimes.onnx.plan import plan as plan_onnx
from ninestory.runtimes.remote.plan import plan as plan_remote
from ninestory.runtimes.torch.plan import installed_device
from ninestory.runtimes.torch.plan import plan as plan_torch

_PLANNERS: dict[str, Callable[[ModelSizes, RuntimeSettings, FreeMemory], Plan]] = {
    "gguf": plan_llamacpp,
    "onnx": plan_onnx,
    "remote": plan_remote,
}  # by the format of the files; all others are torch's
_BITS_PER_WEIGHT = {"Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q4_K": 4.5}


def plan(model: ResolvedModel, settings: RuntimeSettings, free: FreeMemory | None = None) -> Plan:
    """Plan the inference of a model that is on this machine, with the settings it would be loaded with.

    Args:
        free: what the devices have free; None = what this machine has now.
    """
    sizes = sizes_of(model, settings.context, settings.slots)
    return _PLANNERS.get(model.format, plan_torch)(sizes, settings, free or free_memory())


def plan_loading(model: ResolvedModel, settings: RuntimeSettings) -> Plan:
    """Plan what loading the model takes with the runtimes as they are installed: torch may be built without CUDA."""
    if model.format not in _PLANNERS:
        settings = replace(settings, device=installed_device(settings))
    return plan(model, settings)


def plans_for(reference: str, settings: RuntimeSettings, home: Home) -> list[Plan]:
    """The plan of the model asked for first, then those of its other variants in the catalogue.

    Raises:
        NotFound: neither installed nor in the catalogue.
    """
    ref = parse_reference(reference)
    free = free_memory()
    try:
        first = [plan(resolve(ref, home), settings, free)]
    except NotFound:
        if ref.scheme != "catalogue":
            raise
        first = []
    if ref.scheme != "catalogue":
        return first
    system = find(ref.source)
    variants = sorted(system.variants, key=lambda v: v.name != ref.quant)
    planned = [plan_variant(system, v, settings, free) for v in variants if v.nbytes]
    plans = first + [p for p in planned if not first or p.model != first[0].model]
    if not plans:
        raise NotFound(
            f"The catalogue states no sizes for {ref}.",
            hint="Pull it, or plan a file by its path.",
            hint_zh="请先下载，或用路径指定文件。",
        )
    return plans


def plan_variant(system: System, variant: Variant, settings: RuntimeSettings, free: FreeMemory) -> Plan:
    """Plan a variant of the catalogue that need not be installed."""
    planner = _PLANNERS.get(variant.format, plan_torch)
    return planner(_sizes_of_variant(system, variant, settings), settings, free)


def _sizes_of_variant(system: System, variant: Variant, settings: RuntimeSettings) -> ModelSizes:
    note = f"from the catalogue: {variant.format}" if variant.shape else "the cache's size is not known"
    return ModelSizes(
        model=f"{system.name}:{variant.name}",
        family=system.family,
        tasks=kinds.tasks_of_family(system.family),
        shape=variant.shape,
        stored_bytes=variant.nbytes,
        packing=_packing(variant.quant),
        tied=system.family in TIED_FAMILIES,
        context=settings.context or min(system.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT),
        slots=max(1, settings.slots),
        notes=(note,),
    )


def _packing(quant: str) -> Packing:
    """The packing of a variant's linears by the catalogue's word; GGUF's own types are not torch's matter."""
    packings: dict[str, Packing] = {"int8": "int8", "int4": "int4", "gptq-4bit": "gptq", "gptq-8bit": "gptq"}
    return packings.get(quant, "")


def quantised_plans(reference: str, settings: RuntimeSettings) -> list[tuple[Variant, str, Plan]]:
    """(variant, GGUF type, plan) for each GGUF that `ninestory convert gguf` makes of the catalogue's variants.

    The variant asked for comes first, and of a variant its largest type. A variant that is quantised already, or
    whose family llama.cpp cannot run, has none; nor has a reference to another place than the catalogue.
    """
    from ninestory.models.convert.families import converts_to_gguf

    ref = parse_reference(reference)
    system = find(ref.source) if ref.scheme == "catalogue" else None
    if system is None or not converts_to_gguf(system.family):
        return []
    free = free_memory()
    plans = []
    for variant in sorted(system.variants, key=lambda v: v.name != ref.quant):
        if variant.shape is None or variant.quant or not variant.nbytes or variant.format == "gguf":
            continue
        sizes = _sizes_of_variant(system, variant, settings)
        for kind, bits in _BITS_PER_WEIGHT.items():
            name = f"{system.name}:{variant.name} as {kind}"
            nbytes = round(variant.nbytes / 2 * bits / 8)  # published in 16 bit
            plans.append(
                (variant, kind, plan_llamacpp(replace(sizes, model=name, stored_bytes=nbytes), settings, free))
            )
    return plans
