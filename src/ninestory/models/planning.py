"""Plans of a model and its sisters: what is installed by its own header, what is not by the catalogue's figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import NotFound
from ninestory.core.paths import Home
from ninestory.models.catalogue import Variant, find
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.plan import DEFAULT_CONTEXT, Plan, plan, plan_shape, shape_of
from ninestory.models.plan_tuning import UNGATED, TunedShape, TuningJob, TuningPlan, plan_tuning
from ninestory.models.reference import parse_reference
from ninestory.models.resolve import read_config, resolve
from ninestory.models.resolved import ResolvedModel

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
    planned = [_planned(system.name, v, settings, system.context) for v in variants if v.nbytes]
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


def tuning_plans_for(reference: str, jobs: Sequence[TuningJob], home: Home) -> list[TuningPlan]:
    """The plan of each tuning job on one model, which need not be installed when the catalogue states its shape.

    Raises:
        NotFound: neither installed, nor is a shape stated.
    """
    shape = _tuned_shape(reference, home)
    return [plan_tuning(reference, shape, job) for job in jobs]


def _tuned_shape(reference: str, home: Home) -> TunedShape:
    """From the files, else from the catalogue."""
    ref = parse_reference(reference)
    try:
        found = tuned_shape(resolve(ref, home))
    except NotFound:
        if ref.scheme != "catalogue":
            raise
        system = find(ref.source)
        shapes = [v.shape for v in system.variants if ref.quant in (None, v.name) and v.shape]
        matrices = 2 if system.family in UNGATED else 3
        found = TunedShape(shapes[0], system.family in ("chatglm", "bloom"), matrices) if shapes else None
    if found is None:
        raise NotFound(
            f"Nothing states the shape of {reference}.",
            hint="Pull it, or plan a checkpoint folder by its path.",
            hint_zh="请先下载，或用路径指定检查点目录。",
            param="model",
        )
    return found


def tuned_shape(model: ResolvedModel) -> TunedShape | None:
    """What tuning's arithmetic needs, by the model's own header or config; None when it states no shape."""
    sizes = shape_of(model)
    if sizes is None or model.path is None:
        return None
    if model.format == "gguf":
        tied = "output.weight" not in read_gguf(model.path).tensors
    else:
        default = model.architecture in ("chatglm", "bloom", "gpt2", "opt")  # their configs may leave it out
        tied = bool(read_config(model.path).get("tie_word_embeddings", default))
    return TunedShape(sizes, tied, 2 if model.architecture in UNGATED else 3, _packing(model))


def _packing(model: ResolvedModel) -> Literal["", "nf4", "gptq"]:
    """How the linears lie on disk, by the config."""
    described = read_config(model.path).get("quantization_config") if model.path and model.format != "gguf" else None
    if not isinstance(described, dict):
        return ""
    return "nf4" if described.get("load_in_4bit") else "gptq"


def _planned(system: str, variant: Variant, settings: RuntimeSettings, context: int) -> Plan:
    name = f"{system}:{variant.name}"
    runtime = "llamacpp" if variant.format == "gguf" else "torch"
    tokens = settings.context or min(context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if variant.shape is None:
        made = plan_shape(name, None, variant.nbytes, tokens, settings.slots, runtime)
        return dataclasses.replace(made, notes=["cache not known"])
    weights = variant.nbytes
    if runtime == "torch" and not variant.quant and settings.dtype in ("", "float32"):
        weights *= 2  # published in 16 bit, run in float32 on a CPU
    made = plan_shape(name, variant.shape, weights, tokens, settings.slots, runtime)
    return dataclasses.replace(made, notes=[f"from the catalogue: {variant.format}"])
