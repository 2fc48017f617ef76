"""Plans of a model and its sisters: what is installed by its own header, what is not by the catalogue's figures."""

from __future__ import annotations

import dataclasses

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import NotFound
from ninestory.core.paths import Home
from ninestory.models import kinds
from ninestory.models.catalogue import System, Variant, find
from ninestory.models.plan import DEFAULT_CONTEXT, Plan, plan, plan_shape, plan_weights
from ninestory.models.reference import parse_reference
from ninestory.models.resolve import resolve

_BITS_PER_WEIGHT = {"Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q4_K": 4.5}


def plans_for(reference: str, settings: RuntimeSettings, home: Home) -> list[Plan]:
    """The plan of the model asked for first, then those of its other variants in the catalogue.

    Raises:
        NotFound: neither installed nor in the catalogue.
    """
    ref = parse_reference(reference)
    try:
        first = [plan(resolve(ref, home), settings)]
    except NotFound:
        if ref.scheme != "catalogue":
            raise
        first = []
    if ref.scheme != "catalogue":
        return first
    system = find(ref.source)
    variants = sorted(system.variants, key=lambda v: v.name != ref.quant)
    planned = [_planned(system, v, settings) for v in variants if v.nbytes]
    plans = first + [p for p in planned if not first or p.model != first[0].model]
    if not plans:
        raise NotFound(
            f"The catalogue states no sizes for {ref}.",
            hint="Pull it, or plan a file by its path.",
            hint_zh="请先下载，或用路径指定文件。",
        )
    return plans


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
    tokens = settings.context or min(system.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    made = []
    for variant in sorted(system.variants, key=lambda v: v.name != ref.quant):
        if variant.shape is None or variant.quant or not variant.nbytes or variant.format == "gguf":
            continue
        for kind, bits in _BITS_PER_WEIGHT.items():
            name = f"{system.name}:{variant.name} as {kind}"
            weights = round(variant.nbytes / 2 * bits / 8)  # published in 16 bit
            made.append((variant, kind, plan_shape(name, variant.shape, weights, tokens, settings.slots)))
    return made


def _planned(system: System, variant: Variant, settings: RuntimeSettings) -> Plan:
    name = f"{system.name}:{variant.name}"
    tasks = kinds.tasks_of_family(system.family)
    if "chat" not in tasks:
        return plan_weights(name, tasks, variant.nbytes)
    runtime = "llamacpp" if variant.format == "gguf" else "torch"
    tokens = settings.context or min(system.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if variant.shape is None:
        unknown_cache = plan_shape(name, None, variant.nbytes, tokens, settings.slots, runtime)
        return dataclasses.replace(unknown_cache, notes=["the cache's size is not known"])
    weights = variant.nbytes
    if runtime == "torch" and not variant.quant and settings.dtype in ("", "float32"):
        weights *= 2  # published in 16 bit, run in float32 on a CPU
    made = plan_shape(name, variant.shape, weights, tokens, settings.slots, runtime)
    return dataclasses.replace(made, notes=[f"from the catalogue: {variant.format}"])
