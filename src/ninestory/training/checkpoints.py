"""Checkpoints of a run: written whole or not at all, read without a pickle.

A checkpoint is a folder of two files: `state.safetensors` (what is trained, Adam's averages, the random generator)
and `state.json` (numbers). It is written under another name, synced and renamed, so what has the name is whole.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ninestory.core.errors import Damaged, DiskFull, InvalidRequest
from ninestory.core.paths import sync_directory

_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class TrainingCheckpoint:
    """Everything a run needs to continue: tensors by name, and plain numbers."""

    step: int
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]


def save(folder: Path, checkpoint: TrainingCheckpoint, *, keep: int, best: int | None = None) -> Path:
    """Write `folder/step-N` and delete all but the newest `keep` and the best one.

    Raises:
        DiskFull: nothing is lost; the checkpoints before stand.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    part = folder / f".tmp-{checkpoint.step}-{os.getpid()}"
    target = folder / f"step-{checkpoint.step:08d}"
    if target.is_dir():
        return target  # the step before a diverging one: it was saved when it was reached
    try:
        part.mkdir()
        save_file(_unshared(checkpoint.tensors), part / "state.safetensors")
        text = json.dumps({"step": checkpoint.step, **checkpoint.numbers}, ensure_ascii=False)
        (part / "state.json").write_text(text, encoding="utf-8")
        for file in part.iterdir():
            _sync_file(file)
        sync_directory(part)
        part.rename(target)
        sync_directory(folder)
    except Exception as error:
        shutil.rmtree(part, ignore_errors=True)
        if _is_full(error):
            raise DiskFull(
                f"No room left on the disk while saving {target.name}; the checkpoints before it are whole.",
                hint="Free some space and run the same command again: it goes on from the last checkpoint.",
                hint_zh="请清理磁盘后重新运行同一命令，将从上一个检查点继续。",
            ) from error
        raise
    for old in _named(folder)[:-keep]:
        if best is None or _step(old) != best:
            going = old.rename(folder / f".tmp-{old.name}")  # half of a folder would be taken for a checkpoint
            shutil.rmtree(going)
    return target


def newest(folder: Path) -> TrainingCheckpoint | None:
    """The newest checkpoint of a run; None before the first."""
    paths = _named(folder)
    return load(paths[-1]) if paths else None


def load(path: Path) -> TrainingCheckpoint:
    """Read a checkpoint.

    Raises:
        Damaged: it is not a training checkpoint, or a file in it is broken or a pickle.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    foreign = sorted(f.name for f in path.iterdir() if f.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt"))
    if foreign:
        raise Damaged(
            f"{path} holds the pickle {foreign[0]}, which is never opened.",
            hint="Delete that file; checkpoints are state.safetensors and state.json.",
            hint_zh="请删除该文件；检查点只包含 state.safetensors 与 state.json。",
            code="pickle_refused",
        )
    try:
        numbers = json.loads((path / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "state.safetensors")
        return TrainingCheckpoint(int(numbers.pop("step")), tensors, numbers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise Damaged(
            f"{path} is not a complete checkpoint: {error}",
            hint="Delete this folder: the run then goes on from the checkpoint before it.",
            hint_zh="请删除该目录，训练将从更早的检查点继续。",
            code="damaged_checkpoint",
        ) from error


def sweep(folder: Path) -> None:
    """Remove the leftovers of a killed save."""
    for part in folder.glob(".tmp-*"):
        shutil.rmtree(part, ignore_errors=True)


def environment(world: int = 1) -> dict[str, Any]:
    """Versions, threads and world size that bit-exact resume depends on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "world": world,
    }


def differences(saved: dict[str, Any], *, world: int = 1) -> list[str]:
    """List how this environment differs from a checkpoint's; the last bits will then differ too.

    Raises:
        InvalidRequest: another number of processes, whose shares of the data would not fit.
    """
    now = environment(world)
    if saved.get("world", 1) != world:
        raise InvalidRequest(
            f"The checkpoint was written by {saved.get('world')} processes, and this run has {world}.",
            hint=f"Start it with {saved.get('world')} processes, or as a new run.",
            hint_zh=f"请用 {saved.get('world')} 个进程启动，或另起一次训练。",
            code="world_size",
        )
    return [f"{name} {saved.get(name)} → {value}" for name, value in now.items() if saved.get(name) != value]


def _named(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors of which no two share memory: an optimizer may give one table to many parameters."""
    addresses: set[int] = set()
    unshared = {}
    for name, tensor in tensors.items():
        unshared[name] = tensor.detach().contiguous()
        if tensor.data_ptr() in addresses:
            unshared[name] = unshared[name].clone()
        addresses.add(tensor.data_ptr())
    return unshared


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _is_full(error: Exception) -> bool:
    """Whether the disk, a quota or a limit on file sizes is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    # safetensors gives its own class with the system's words
    return full or any(words in str(error) for words in ("No space left", "Disk quota exceeded", "File too large"))
