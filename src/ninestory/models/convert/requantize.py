"""Write a GGUF file again with its quantised matrices as Q8_0, block by block.

The starter's Q4_1 is the slow format for several streams: eight at once gain 2.4 × over one, with Q8_0 3.0 ×
(processor and conditions in benchmarks/RESULTS.md). Q4_1 widened to Q8_0 loses nothing that matters (perplexity
ratio 1.002), and the file grows from 98 to 145 MB.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ninestory.core.paths import Home, sync_directory
from ninestory.models.gguf_reader import TENSOR_TYPES, GgufFile, read_gguf
from ninestory.models.tensor_info import TensorInfo

_ROWS = 2048  # of one block; 2048 rows of 576 float32 values are 4.7 MB


def requantized(source: Path, sha256: str, home: Home) -> Path:
    """Requantise `source` to Q8_0, cached in the home by the source's checksum."""
    target = home.cache / "q8_0" / f"{sha256[:16]}.gguf"
    if not target.is_file():
        write_q8_0(source, target)
    return target


def write_q8_0(source: Path, target: Path) -> None:
    """Requantise `source` into `target` (atomic). Tensors whose row size is not a multiple of 32 keep their type."""
    header = read_gguf(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _write(source, header, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(target.parent)


def _write(source: Path, header: GgufFile, part: Path) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(part, header.architecture)
    _copy_metadata(writer, header)
    kinds = {name: _new_kind(tensor) for name, tensor in header.tensors.items()}
    for name, tensor in header.tensors.items():
        kind = kinds[name]
        row_bytes = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
        nbytes = int(np.prod(row_bytes))
        writer.add_tensor_info(name, list(tensor.shape), np.dtype(np.float32), nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    out = writer.fout[0]
    data = np.memmap(source, mode="r")
    for name, tensor in header.tensors.items():
        raw = data[tensor.offset : tensor.offset + tensor.nbytes]
        for block in _blocks(raw, tensor, kinds[name]):
            out.write(block)
        writer.write_padding(out, out.tell())
    out.flush()
    os.fsync(out.fileno())
    writer.close()


def _blocks(raw: Any, tensor: TensorInfo, kind: Any) -> Any:
    """Yield the tensor's bytes in its new type, in blocks of rows."""
    import gguf

    old = gguf.GGMLQuantizationType[tensor.dtype]
    if old == kind:
        yield memoryview(raw)
        return
    rows = raw.reshape(-1, tensor.nbytes // (_elements(tensor) // tensor.shape[-1]))
    for start in range(0, rows.shape[0], _ROWS):
        values = gguf.quants.dequantize(rows[start : start + _ROWS], old)
        yield gguf.quants.quantize(values, kind).tobytes()


def _new_kind(tensor: TensorInfo) -> Any:
    import gguf

    _, block, _ = next(entry for entry in TENSOR_TYPES.values() if entry[0] == tensor.dtype)
    quantised = block > 1 and tensor.shape[-1] % 32 == 0
    return gguf.GGMLQuantizationType.Q8_0 if quantised else gguf.GGMLQuantizationType[tensor.dtype]


def _elements(tensor: TensorInfo) -> int:
    count = 1
    for n in tensor.shape:
        count *= n
    return count


def _copy_metadata(writer: Any, header: GgufFile) -> None:
    """All keys but those that the writer sets itself and the file type, which changes."""
    import gguf

    reader = gguf.GGUFReader(header.path)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, header.metadata[name], kind, sub_type=sub)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
