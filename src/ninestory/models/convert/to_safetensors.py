"""A checkpoint in torch's own format (`.bin`, `.pth`) as safetensors, without torch and without unpickling.

Tensors that share their bytes (a head tied to the embedding) are written once where the model ties them anyway;
tensors with strides of their own are gathered block by block.
"""

from __future__ import annotations

from pathlib import Path

from ninestory.core.progress import Progress, Silent
from ninestory.models.convert.checkpoint import Checkpoint, Tensor, open_checkpoint, raw_blocks
from ninestory.models.convert.safetensors_writer import (
    NewTensor,
    copy_companions,
    output_folder,
    write_json,
    write_shards,
)

_TIED_BY_DEFAULT = {"bloom", "falcon", "chatglm", "gpt2"}  # families whose config.json need not say so


def convert_to_safetensors(source: Path, target: Path, progress: Progress | None = None) -> Path:
    """Write the checkpoint at `source` (file or folder) as the new folder `target`.

    Raises:
        Damaged: a file is unsound or asks for code. Conflict: `target` exists. DiskFull: no room.
    """
    checkpoint = open_checkpoint(source)
    kept, dropped = _distinct(checkpoint)
    metadata = {"source": source.name, "fingerprint": checkpoint.fingerprint(), **dropped}
    with output_folder(target, {"kind": "safetensors", **metadata}) as folder:
        write_shards(folder, [copied(tensor) for tensor in kept], metadata, progress or Silent())
        if checkpoint.config:
            write_json(folder / "config.json", checkpoint.config)
        copy_companions(checkpoint, folder)
    return target


def copied(tensor: Tensor, name: str = "") -> NewTensor:
    """Copy `tensor` bit for bit, optionally under another name."""
    return NewTensor(name or tensor.name, tensor.dtype, tensor.shape, lambda: raw_blocks(tensor))


def _distinct(checkpoint: Checkpoint) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors to write, and {dropped name: the name that has the same bytes}."""
    config = checkpoint.config
    tied = config.get("tie_word_embeddings", config.get("model_type") in _TIED_BY_DEFAULT)
    first: dict[tuple[object, ...], str] = {}
    kept, dropped = [], {}
    for tensor in checkpoint.tensors.values():
        other = first.setdefault(tensor.place, tensor.name)
        if other != tensor.name and tied:
            dropped[tensor.name] = other
        else:
            kept.append(tensor)
    return kept, dropped
