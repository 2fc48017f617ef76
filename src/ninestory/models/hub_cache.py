"""Models that other tools already fetched, used where they lie: the Hugging Face and Ollama caches."""

from __future__ import annotations

import json
import os
from pathlib import Path


def hugging_face_snapshot(repo: str, revision: str | None) -> Path | None:
    """The snapshot folder of `org/name` in the Hugging Face cache, or None.

    Layout: hub/models--ORG--NAME/refs/REVISION holds a commit, snapshots/COMMIT the files.
    """
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    root = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{repo.replace('/', '--')}"
    wanted = revision or "main"
    pointer = root / "refs" / wanted
    commit = pointer.read_text().strip() if pointer.is_file() else wanted
    snapshot = root / "snapshots" / commit
    return snapshot if snapshot.is_dir() and snapshot.resolve().is_relative_to(root.resolve()) else None


def ollama_file(name: str, tag: str | None) -> Path | None:
    """The GGUF blob of an Ollama model, or None. Its manifest names the blob by sha256."""
    root = Path(os.environ.get("OLLAMA_MODELS", Path.home() / ".ollama" / "models"))
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / name / (tag or "latest")
    if not manifest.is_file():
        return None
    layers = json.loads(manifest.read_text()).get("layers", [])
    for layer in layers:
        if layer.get("mediaType") == "application/vnd.ollama.image.model":
            blob = root / "blobs" / str(layer["digest"]).replace(":", "-")
            return blob if blob.is_file() else None
    return None
