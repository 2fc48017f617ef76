"""Check that an adapter is applied to the weights it was trained on: equal shapes do not mean an equal model."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from ninestory.core.errors import Conflict
from ninestory.core.json_file import read_json
from ninestory.models.reference import Reference, parse_reference
from ninestory.models.resolved import ResolvedModel

log = logging.getLogger(__name__)
_ENDS = 1 << 20  # bytes of a weights file that its fingerprint looks at, from either end
_WEIGHTS = (".safetensors", ".bin", ".pth")


def fingerprint(path: Path) -> str:
    """16 hex digits that tell the weights at `path`, a file or a checkpoint folder, from others.

    Made of config.json and of each weights file's name, size and ends: two megabytes of it are read.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        digest.update((path / "config.json").read_bytes())
    files = sorted(f for f in path.iterdir() if f.suffix in _WEIGHTS) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        name = file.name if path.is_dir() else file.suffix
        digest.update(f"{name} {size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_ENDS))
            opened.seek(max(0, size - _ENDS))
            digest.update(opened.read())
    return digest.hexdigest()[:16]


def check_adapter_bases(model: ResolvedModel) -> list[str]:
    """Compare what `model` is with what each of its adapters was trained on, as the adapter's own note says.

    An adapter without a note (peft's, a published LoRA) may stand on any base that has its shapes.

    Returns: notes for the user, logged as warnings, where an adapter stands on another form of its own base (fp16 against int4).

    Raises:
        Conflict: an adapter was trained on another model, or its base's files have changed since.
    """
    noted = [(adapter, read_json(adapter.path / "ninestory.json")) for adapter in model.adapters]
    bases = {a.name: (str(note.get("base", "")), str(note["base_fingerprint"]))
             for a, note in noted if "base_fingerprint" in note}  # fmt: skip
    if not bases or model.path is None:
        return []
    ours = parse_reference(model.reference)
    if ours.scheme == "ft" and ours.source in bases:  # a tuned model stands on the base of its own adapter
        ours = parse_reference(bases[ours.source][0])
    # QLoRA's 4-bit copy is named by what it was made of.
    here = model.path.name if any(model.path.name == mark for _, mark in bases.values()) else fingerprint(model.path)
    told = []
    for name, (base, mark) in bases.items():
        if mark != here and not _is_a_form_of(ours, parse_reference(base)):
            raise _foreign(name, base, ours)
        if mark != here:
            told.append(f"{name} was trained on {base}: on {ours.base} its answers differ a little")
            log.warning(told[-1])
    return told


def _is_a_form_of(model: Reference, other: Reference) -> bool:
    """Two variants of one published model: the same weights, stored more or less exactly."""
    if model.scheme in ("path", "ft"):
        return False
    return (model.scheme, model.source) == (other.scheme, other.source) and model.base != other.base


def _foreign(name: str, base: str, ours: Reference) -> Conflict:
    if ours.base == parse_reference(base).base:
        return Conflict(
            f"{base} is not the model that the adapter {name} was trained on: its files have changed since.",
            hint="Bring back the base of that time, or tune again.",
            hint_zh="请恢复当时的基座模型，或重新微调。",
            param="model",
            code="adapter_for_another_base",
        )
    return Conflict(
        f"The adapter {name} was trained on {base}, and {ours.base} has other weights.",
        hint=f"Write {base}+{name}, or merge it there: ninestory tune export {name} --out DIR.",
        hint_zh=f"请写 {base}+{name}，或先合并：ninestory tune export {name} --out 目录。",
        param="model",
        code="adapter_for_another_base",
    )
