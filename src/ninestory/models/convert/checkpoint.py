"""A checkpoint as named tensors, from safetensors or torch pickles, in one file or several shards.

Data stays in the files: rows are views of mapped memory or copies of a few megabytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, NotFound, Unsupported
from ninestory.core.json_file import read_json
from ninestory.models import pickle_reader, safetensors_reader
from ninestory.models.pickle_reader import PickleFile
from ninestory.models.safetensors_reader import SafetensorsFile
from ninestory.models.verify import weight_files

BLOCK_BYTES = 8 << 20
ITEM_BYTES = safetensors_reader.DTYPE_BYTES
_FLOATS = ("F64", "F32", "F16", "BF16")
_END_BYTES = 1 << 16  # of a file, read for its fingerprint


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint. `place` is equal for two names that share the same bytes in the same layout."""

    name: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    place: tuple[Any, ...]
    file: SafetensorsFile | PickleFile

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    def view(self) -> Any:
        """A read-only view of the file's values; BF16 as uint16."""
        if isinstance(self.file, PickleFile):
            return pickle_reader.view_tensor(self.file, self.name)
        return safetensors_reader.read_tensor(self.file, self.name)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors in file order, and the folder's config.json ({} if there is none)."""

    path: Path
    files: list[Path]
    tensors: dict[str, Tensor]
    config: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    def tensor(self, name: str) -> Tensor:
        """Raises: Damaged: it is not there."""
        if name not in self.tensors:
            raise Damaged(
                f"{self.path.name} has no tensor {name!r}.",
                hint="Complete the download; 'ninestory verify' lists what is there.",
                hint_zh="请补全下载；ninestory verify 会列出已有内容。",
                code="missing_tensor",
            )
        return self.tensors[name]

    def fingerprint(self) -> str:
        """Fingerprint of the weight files from names, sizes and both ends; cheap, not a checksum."""
        digest = hashlib.sha256()
        for file in self.files:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as opened:
                digest.update(opened.read(_END_BYTES))
                opened.seek(max(0, size - _END_BYTES))
                digest.update(opened.read(_END_BYTES))
        return digest.hexdigest()[:32]


def open_checkpoint(path: Path) -> Checkpoint:
    """List the tensors of a weights file or a checkpoint folder.

    Raises:
        NotFound: no weights there. Damaged: a file is not what it says, an index names what is missing, or two
        shards hold the same name.
    """
    files = [path] if path.is_file() else weight_files(path) if path.is_dir() else []
    if not files:
        raise NotFound(
            f"There are no weights at {path}.",
            hint="Name a folder with .safetensors, .bin or .pth files, or such a file.",
            hint_zh="请指定包含 .safetensors、.bin 或 .pth 的目录，或其中一个文件。",
            param="model",
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        for tensor in _tensors(file):
            if tensor.name in tensors:
                raise Damaged(
                    f"The tensor {tensor.name!r} of {file.name} is also in another file of {path.name}; expected it once."
                )
            tensors[tensor.name] = tensor
    folder = path if path.is_dir() else path.parent
    return Checkpoint(path, files, tensors, read_json(folder / "config.json") if path.is_dir() else {})


def _tensors(path: Path) -> Iterator[Tensor]:
    if path.suffix == ".safetensors":
        file = safetensors_reader.read_header(path)
        for info in file.tensors.values():
            yield Tensor(info.name, info.dtype, info.shape, (path, info.name), file)
        return
    opened = pickle_reader.read_pickle(path)
    for entry in opened.tensors.values():
        place = (path, entry.storage_at, entry.storage_offset, entry.shape, entry.strides)
        yield Tensor(entry.name, entry.dtype, entry.shape, place, opened)


def row_ranges(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of row blocks of about `BLOCK_BYTES` each; a row is one index of the first axis."""
    rows = shape[0] if shape else 1
    step = max(1, BLOCK_BYTES // max(1, prod(shape[1:]) * itemsize))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def raw_blocks(tensor: Tensor) -> Iterator[Any]:
    """The tensor's bytes in row-major order, block by block, whatever its strides in the file."""
    import numpy as np

    view = tensor.view()
    if not tensor.shape:
        yield np.ascontiguousarray(view)
        return
    for start, stop in row_ranges(tensor.shape, ITEM_BYTES[tensor.dtype]):
        yield np.ascontiguousarray(view[start:stop])


def widen(values: Any, dtype: str, name: str = "") -> Any:
    """Convert stored values to float32.

    Raises:
        Unsupported: they are no floating-point numbers.
    """
    import numpy as np

    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype not in _FLOATS:
        raise Unsupported(
            f"The tensor {name!r} has dtype {dtype}; expected floating point (the checkpoint is quantised).",
            hint="Use the half-precision release.",
            hint_zh="请使用半精度版本。",
            param="model",
        )
    return values.astype(np.float32)


def narrow(values: Any, dtype: str) -> Any:
    """Convert float32 values to the stored dtype, rounding to nearest even."""
    import numpy as np

    if dtype == "BF16":
        bits = values.view(np.uint32)
        rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
    return values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype])
