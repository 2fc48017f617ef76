"""From a reference to verified files on this machine. Never touches the network: fetching is `models/pull.py`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.core.json_file import read_json
from ninestory.core.paths import Home
from ninestory.models.from_path import model_at, read_config
from ninestory.models.locate import adapter_path, find_model, published, tuned_folder
from ninestory.models.reference import Adapter, Reference, parse_reference
from ninestory.models.resolved import ResolvedAdapter, ResolvedModel
from ninestory.models.starter_table import STARTER_TASKS
from ninestory.models.starters import find_starter, starter_file
from ninestory.models.store import NOTE

__all__ = ["published", "read_config", "resolve"]

_STARTER_VARIANTS = {"gguf": ("q8_0",), "e5": ("int8", "fp32")}
_LOST_COPY = "trained by QLoRA on a 4-bit copy of this base that is gone from the cache: answers on these weights differ a little"


def resolve(reference: str | Reference, home: Home) -> ResolvedModel:
    """Find the files of a model and what is known about them.

    Raises:
        NotFound: the model is not on this machine; the hint is the command that brings it.
        InvalidRequest: the reference is malformed or picks none or many of several files.
        Damaged: a file does not pass `verify`.
    """
    ref = parse_reference(reference) if isinstance(reference, str) else reference
    return replace(_resolve(ref, home), home=home.root)


def _resolve(ref: Reference, home: Home) -> ResolvedModel:
    if ref.scheme == "openai":
        return _remote(ref)
    if ref.scheme == "ft" and (adapted := _adapted_base(ref, home)):
        return adapted
    model = (
        _starter(ref, home) if ref.scheme == "starter" else _with_licence(model_at(ref, find_model(ref, home), home))
    )
    return _with_adapters(_astuned_folder(model) if ref.scheme == "ft" else model, ref.adapters, home)


def _adapted_base(ref: Reference, home: Home) -> ResolvedModel | None:
    """A tuned model that is an adapter: its base with that adapter, asked in the format that it was trained in.

    None for one that is a whole model (full tuning, freeze, or a folder of somebody else's with an alias). What QLoRA
    trained stands on the 4-bit copy that it was trained on: on the original weights its answers would differ.
    """
    run = tuned_folder(ref, home)
    note = read_json(run / "ninestory.json")
    if "base" not in note or (run / "model").is_dir():
        return None
    base, copy = parse_reference(str(note["base"])), home.cache / "nf4" / str(note.get("base_fingerprint", ""))
    packed = _method(note) == "qlora" and copy.is_dir() and "base_fingerprint" in note
    adapters = (*base.adapters, Adapter(str(run / "adapter")), *ref.adapters)
    model = resolve(replace(Reference("path", str(copy)) if packed else base, adapters=adapters), home)
    if _method(note) == "qlora" and not packed and not _is_packed(model):
        model = replace(model, notes=[*model.notes, _LOST_COPY])
    named = [replace(a, name=run.name) if a.path == (run / "adapter").resolve() else a for a in model.adapters]
    return replace(model, reference=str(ref), adapters=named, template=str(note["template"]) or model.template)


def _astuned_folder(model: ResolvedModel) -> ResolvedModel:
    """A wholly tuned model in the format that it was trained in, as the note in its folder says."""
    assert model.path is not None
    note = read_json(model.path / "ninestory.json")
    template = str(note.get("template", ""))
    return replace(model, template=template, rendered=str(note.get("rendered", ""))) if template else model


def _method(note: dict[str, Any]) -> str:
    """By which method a run was trained, as its note says."""
    recipe = note.get("recipe")
    method = recipe.get("method") if isinstance(recipe, dict) else None
    return str(method.get("name", "")) if isinstance(method, dict) else ""


def _is_packed(model: ResolvedModel) -> bool:
    """Whether the checkpoint itself holds 4-bit linears."""
    return model.format == "safetensors" and bool(model.path and read_config(model.path).get("quantization_config"))


def _starter(ref: Reference, home: Home) -> ResolvedModel:
    starter = find_starter(ref.source)
    variants = _STARTER_VARIANTS.get(starter.format, ())
    if ref.quant and ref.quant.lower() not in variants:
        raise InvalidRequest(
            f"starter:{starter.name} has no variant {ref.quant!r}.",
            hint=f"Leave it out{' or write ' + ' or '.join(variants) if variants else ''}.",
            hint_zh=f"请去掉变体{'，或写 ' + ' 或 '.join(variants) if variants else ''}。",
            param="model",
        )
    path = starter_file(starter, home)
    if starter.format == "e5":
        from ninestory.models.convert.e5_onnx import e5_onnx_folder

        precision = ref.quant.lower() if ref.quant else "int8"
        model = model_at(ref, e5_onnx_folder(path, starter.sha256, home, precision), home)
    elif starter.format == "gguf":
        if ref.quant:
            from ninestory.models.convert.requantize import requantized

            path = requantized(path, starter.sha256, home)
        model = model_at(ref, path, home)
    else:
        model = ResolvedModel(
            reference=str(ref),
            path=path.parent,
            format="ctranslate2" if starter.format == "ctranslate2" else "onnx",
            architecture=starter.name,
            tasks=STARTER_TASKS[starter.task],
            context=0,
            total_bytes=starter.nbytes,
        )
    return replace(
        model, sha256=starter.sha256, licence=starter.licence, notes=[starter.provenance, starter.provenance_zh]
    )


def _remote(ref: Reference) -> ResolvedModel:
    if ref.adapters:
        raise Unsupported(f"A remote model takes no adapters: {ref}.", param="model")
    return ResolvedModel(
        reference=str(ref),
        path=None,
        format="remote",
        architecture="remote",
        tasks=("chat", "completion", "embedding"),
        context=128_000,
        endpoint=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    )


def _with_licence(model: ResolvedModel) -> ResolvedModel:
    """The licence that the hub stated when the model was pulled, where the files themselves state none."""
    assert model.path is not None
    note = (model.path if model.path.is_dir() else model.path.parent) / NOTE
    if model.licence or not note.is_file():
        return model
    return replace(model, licence=str(json.loads(note.read_text(encoding="utf-8"))["licence"]))


def _with_adapters(model: ResolvedModel, adapters: tuple[Adapter, ...], home: Home) -> ResolvedModel:
    """With the adapters, and asked in the format that they were trained in, as each one's own note says."""
    found = [ResolvedAdapter(name=a.source, path=adapter_path(a, home), weight=a.weight) for a in adapters]
    if twice := [a.name for i, a in enumerate(found) if a.path in {b.path for b in found[:i]}]:
        raise InvalidRequest(
            f"The adapter {twice[0]} is named twice in {model.reference}.",
            hint="Name it once, with the sum of its weights.",
            hint_zh="请只写一次，权重取两者之和。",
            param="model",
        )
    notes = [read_json(adapter.path / "ninestory.json") for adapter in found]
    formats = {str(note["template"]): str(note.get("rendered", "")) for note in notes if note.get("template")}
    if not formats:
        return replace(model, adapters=found) if found else model
    (template, rendered), *others = formats.items()
    said = [f"the adapters were trained in {', '.join(formats)}: asked in {template}"] if others else []
    return replace(model, adapters=found, template=template, rendered=rendered, notes=[*model.notes, *said])
