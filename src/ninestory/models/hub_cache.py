"""Models in the caches of other tools (Hugging Face, Ollama), used in place."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_OLLAMA_WEIGHTS = "application/vnd.ollama.image.model"
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pth")


def hugging_face_snapshot(repo: str, revision: str | None) -> Path | None:
    """The snapshot folder of `org/name` in the Hugging Face cache, or None.

    Layout: models--ORG--NAME/refs/REVISION holds a commit, snapshots/COMMIT the files.
    """
    root = _hugging_face_root() / f"models--{repo.replace('/', '--')}"
    wanted = revision or "main"
    pointer = root / "refs" / wanted
    commit = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else wanted
    snapshot = root / "snapshots" / commit
    return snapshot if snapshot.is_dir() and snapshot.resolve().is_relative_to(root.resolve()) else None


def hugging_face_models() -> dict[str, Path]:
    """`org/name` → snapshot of its main revision, for every cached model that holds weights."""
    found = {}
    for folder in sorted(_hugging_face_root().glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        snapshot = hugging_face_snapshot(repo, None)
        if snapshot and any(any(snapshot.glob(pattern)) for pattern in _WEIGHTS):
            found[repo] = snapshot
    return found


def ollama_file(name: str, tag: str | None) -> Path | None:
    """The GGUF blob of an Ollama model, or None. Its manifest names the blob by sha256."""
    manifest = _ollama_root() / "manifests" / "registry.ollama.ai" / "library" / name / (tag or "latest")
    return _blob(manifest) if manifest.is_file() else None


def ollama_models() -> dict[str, Path]:
    """`name:tag` → GGUF blob, for every model in Ollama's store whose blob is there."""
    library = _ollama_root() / "manifests" / "registry.ollama.ai" / "library"
    found = {}
    for manifest in sorted(library.glob("*/*")):
        if manifest.is_file() and (blob := _blob(manifest)):
            found[f"{manifest.parent.name}:{manifest.name}"] = blob
    return found


def _blob(manifest: Path) -> Path | None:
    try:
        described: Any = json.loads(manifest.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    for layer in described.get("layers", []) if isinstance(described, dict) else []:
        digest = str(layer.get("digest"))
        if layer.get("mediaType") == _OLLAMA_WEIGHTS and _DIGEST.fullmatch(digest):
            blob = _ollama_root() / "blobs" / digest.replace(":", "-")
            return blob if blob.is_file() else None
    return None


def _hugging_face_root() -> Path:
    """Cache directory as in huggingface_hub: HF_HUB_CACHE, its older name, or HF_HOME/hub."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub").expanduser()


def _ollama_root() -> Path:
    return Path(os.environ.get("OLLAMA_MODELS", Path.home() / ".ollama" / "models")).expanduser()
