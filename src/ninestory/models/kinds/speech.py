"""Models that hear or speak: wav2vec2 (MMS), Whisper (transformers and CTranslate2), VITS (MMS, both layouts)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ninestory.core.tasks import Task
from ninestory.models.kinds.contents import Contents, ModelKind, contents_of, ctranslate2_spec

LOOKED_FOR = "a config.json of wav2vec2, Whisper or VITS; CTranslate2's Whisper; an original VITS G_*.pth"

FAMILIES: Mapping[str, tuple[Task, ...]] = {
    "wav2vec2": ("transcribe", "align"),
    "whisper": ("transcribe",),
    "vits": ("speak",),
}


def matches(path: Path) -> bool:
    """Whether this is a model that hears or speaks."""
    contents = contents_of(path)
    return contents.model_type in FAMILIES or _is_ct2_whisper(path) or _is_original_vits(contents)


def describe(path: Path) -> ModelKind:
    """What a model that `matches` is."""
    contents = contents_of(path)
    if _is_ct2_whisper(path):
        return ModelKind(FAMILIES["whisper"], "ctranslate2", "whisper")
    family = contents.model_type or "vits"
    classifies = contents.architecture.endswith("ForSequenceClassification")
    return ModelKind(("identify_language",) if classifies else FAMILIES[family], contents.format, family)


def _is_ct2_whisper(path: Path) -> bool:
    files = sorted(path.glob("*.bin")) if path.is_dir() else [path]
    return any(ctranslate2_spec(file) == "WhisperSpec" for file in files)


def _is_original_vits(contents: Contents) -> bool:
    """A generator of the original training code, beside the settings it was trained with."""
    path = contents.path
    if contents.says_what_it_is or not path.is_dir() or not any(path.glob("G_*.pth")):
        return False
    return {"train", "data", "model"} <= set(contents.config) or (path / "vocab.txt").is_file()
