"""Write safetensors without holding a tensor: header, then blocks; a folder of shards with its index. No torch."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ninestory.core.errors import Conflict
from ninestory.core.json_file import read_json
from ninestory.core.paths import atomic_write, sync_directory
from ninestory.core.progress import Progress
from ninestory.models.convert.checkpoint import ITEM_BYTES, Checkpoint
from ninestory.models.convert.stream import FilePart, write_stream

SHARD_BYTES = 2_000_000_000
_JOB = "job.json"
# Files beside the weights that a copy of the model needs; code (*.py) is never among them.
_COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "ice_text.model", "chat_template.jinja", "LICENSE", "USE_POLICY.md",
)  # fmt: skip


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write; every call of `blocks` yields its row-major bytes again."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[Any]]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def write_safetensors(target: Path, tensors: list[NewTensor], metadata: dict[str, str], progress: Progress) -> None:
    """Write one file atomically; resumes an earlier killed run with the same header."""
    write_stream(target, _header(tensors, metadata), [FilePart(t.name, t.nbytes, t.blocks) for t in tensors], progress)


def write_shards(
    folder: Path, tensors: list[NewTensor], metadata: dict[str, str], progress: Progress, shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write model.safetensors, or shards of about `shard_bytes` with an index. Existing shards are kept."""
    shards = list(_shards(tensors, shard_bytes))
    headers = [_header(shard, metadata) for shard in shards]
    total = sum(t.nbytes for t in tensors)
    done, whole, files = 0, total + sum(map(len, headers)), []
    weight_map: dict[str, str] = {}
    for number, (shard, header) in enumerate(zip(shards, headers, strict=True), 1):
        one = len(shards) == 1
        name = "model.safetensors" if one else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        if not _is_there(folder / name, header):
            write_safetensors(folder / name, shard, metadata, _FileProgress(progress, done, whole))
        done += len(header) + sum(t.nbytes for t in shard)
        weight_map |= {t.name: name for t in shard}
        files.append(folder / name)
    if len(shards) > 1:
        write_json(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )
    return files


@contextmanager
def output_folder(target: Path, job: dict[str, Any]) -> Iterator[Path]:
    """A hidden folder next to `target` that is renamed to it at the end; a killed run of the same `job` resumes in it.

    Raises:
        Conflict: there is something at `target` already.
    """
    if target.exists():
        raise Conflict(
            f"{target} exists.",
            hint="Choose another name, or remove it first.",
            hint_zh="请更换名称，或先将其删除。",
            param="out",
        )
    making = target.with_name(f".{target.name}.part")
    if making.exists() and read_json(making / _JOB) != job:
        shutil.rmtree(making)
    making.mkdir(parents=True, exist_ok=True)
    write_json(making / _JOB, job)
    yield making
    (making / _JOB).unlink()
    sync_directory(making)
    making.replace(target)
    sync_directory(target.parent)


def write_json(path: Path, table: dict[str, Any]) -> None:
    with atomic_write(path, "w") as file:
        json.dump(table, file, ensure_ascii=False, indent=2)


def copy_companions(source: Checkpoint | Path, folder: Path) -> list[str]:
    """Copy the tokenizer and other side files; returns the names of the copied files."""
    origin = source if isinstance(source, Path) else source.folder
    names = [name for name in _COMPANIONS if (origin / name).is_file()]
    for name in names:
        with atomic_write(folder / name) as file, (origin / name).open("rb") as opened:
            shutil.copyfileobj(opened, file)
    return names


def _header(tensors: list[NewTensor], metadata: dict[str, str]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for tensor in tensors:
        ends = [offset, offset + tensor.nbytes]
        table[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": ends}
        offset += tensor.nbytes
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _shards(tensors: list[NewTensor], shard_bytes: int) -> Iterator[list[NewTensor]]:
    shard: list[NewTensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.nbytes
    yield shard


def _is_there(path: Path, header: bytes) -> bool:
    """Whether this job has already finished the shard (a file's final name always means a complete file)."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


class _FileProgress:
    """Progress of one file as a part of the folder's progress."""

    resume: dict[str, Any] | None = None

    def __init__(self, whole: Progress, done: int, total: int) -> None:
        self.whole, self.done, self.total = whole, done, total

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        self.whole.update(self.done + done, self.total, message)

    def event(self, kind: str, **data: Any) -> None:
        self.whole.event(kind, **data)

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.whole.checkpoint(state)
