"""LLaMA's original layout: consolidated.NN.pth for model-parallel ranks, and params.json. Written without torch.

A `.pth` file is a zip archive of stored members: a pickle that names each tensor's storage, type, shape and strides,
and one member a storage. Source of names and splits: ymcui/Chinese-LLaMA-Alpaca, merge_llama_with_chinese_lora.py.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.core.paths import sync_directory
from ninestory.core.progress import Progress
from ninestory.models.convert.checkpoint import ITEM_BYTES
from ninestory.models.convert.safetensors_writer import NewTensor, write_json

_ENDS = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
_PARTS = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_LAYER = re.compile(r"model\.layers\.(\d+)\.([a-z_.]+)\.weight")
_BY_COLUMNS = ("tok_embeddings.weight", ".w2.weight", ".wo.weight")
_STORAGES = {"F16": "HalfStorage", "BF16": "BFloat16Storage", "F32": "FloatStorage"}


def write_consolidated(
    folder: Path, tensors: list[NewTensor], config: dict[str, Any], shards: int, progress: Progress
) -> None:
    """Write `tensors` (Hugging Face names) as `shards` files and params.json. Files that are there are kept.

    Raises:
        Unsupported: a tensor that LLaMA does not have. InvalidRequest: the heads cannot be divided so.
    """
    heads = int(config.get("num_attention_heads", 0))
    if config.get("num_key_value_heads", heads) != heads:
        raise Unsupported(
            "This model uses grouped-query attention; the original layout (LLaMA-1) requires equal numbers of heads and key heads.",
            hint="Write --layout hf.",
            hint_zh="请使用 --layout hf。",
            param="layout",
        )
    if shards < 1 or heads < 1 or heads % shards or config.get("intermediate_size", 0) % shards:
        raise InvalidRequest(
            f"{heads} heads cannot be split evenly into {shards} shards.",
            hint="LLaMA has 1 shard at 7B, 2 at 13B, 4 at 33B and 8 at 65B.",
            hint_zh="LLaMA 7B 为 1 个分片，13B 为 2，33B 为 4，65B 为 8。",
            param="shards",
        )
    names = {tensor.name: _original_name(tensor.name) for tensor in tensors}
    total = sum(t.nbytes for t in tensors)
    for rank in range(shards):
        path = folder / f"consolidated.{rank:02d}.pth"
        if not path.is_file():
            parts = [_Slice(t, names[t.name], rank, shards, heads) for t in tensors]
            _write_pth(path, parts)
        progress.update(total * (rank + 1) / shards, total, path.name)
    # The norm's epsilon of the 65B release was 1e-5; vocab_size -1 means: as the tokenizer says.
    write_json(
        folder / "params.json",
        {
            "dim": config["hidden_size"],
            "multiple_of": 256,
            "n_heads": heads,
            "n_layers": config["num_hidden_layers"],
            "norm_eps": config.get("rms_norm_eps", 1e-6),
            "vocab_size": -1,
        },
    )


class _Slice:
    """One rank's shard of a tensor, as blocks of rows in the original order."""

    def __init__(self, tensor: NewTensor, name: str, rank: int, shards: int, heads: int) -> None:
        self.tensor, self.name, self.heads = tensor, name, heads
        rows, columns = tensor.shape[0], tensor.shape[1] if len(tensor.shape) > 1 else 1
        self.rows, self.columns = (0, rows), (0, columns)
        if len(tensor.shape) > 1 and name.endswith(_BY_COLUMNS):
            self.columns = _cut(columns, rank, shards)
        elif len(tensor.shape) > 1:
            self.rows = _cut(rows, rank, shards)  # an odd row goes to the last rank
        self.shape = (self.rows[1] - self.rows[0], *((self.columns[1] - self.columns[0],) * (len(tensor.shape) > 1)))

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.tensor.dtype]

    def blocks(self) -> Iterator[Any]:
        import numpy as np

        if self.name.endswith((".wq.weight", ".wk.weight")):
            yield from self._interleaved()
            return
        at = 0
        for block in self.tensor.blocks():
            first, last = max(self.rows[0] - at, 0), min(self.rows[1] - at, len(block))
            at += len(block)
            if first < last:
                held = block[first:last]
                yield np.ascontiguousarray(held[:, slice(*self.columns)] if held.ndim > 1 else held)

    def _interleaved(self) -> Iterator[Any]:
        """Permute the rows of q and k from half-split back to interleaved pairs, per head."""
        import numpy as np

        head = self.tensor.shape[0] // self.heads
        kept: list[Any] = []
        at = 0
        for block in self.tensor.blocks():
            kept.append(block)
            while sum(map(len, kept)) >= head:
                rows = np.concatenate(kept)
                whole, kept = rows[:head], [rows[head:]]
                if self.rows[0] <= at < self.rows[1]:
                    yield np.ascontiguousarray(whole.reshape(2, head // 2, -1).swapaxes(0, 1).reshape(head, -1))
                at += head


def _cut(length: int, rank: int, shards: int) -> tuple[int, int]:
    part = length // shards
    return rank * part, length if rank == shards - 1 else (rank + 1) * part


def _original_name(name: str) -> str:
    if name in _ENDS:
        return _ENDS[name]
    matched = _LAYER.fullmatch(name)
    if matched is None or matched[2] not in _PARTS:
        raise Unsupported(
            f"The tensor {name!r} is not part of LLaMA's original layout.",
            hint="Write --layout hf.",
            hint_zh="请使用 --layout hf。",
            param="layout",
        )
    return f"layers.{matched[1]}.{_PARTS[matched[2]]}.weight"


def _write_pth(path: Path, parts: list[_Slice]) -> None:
    """Write a torch archive: data.pkl, then one stored member per tensor, aligned for torch's memory mapping."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            _member(archive, "data.pkl", lambda: [_pickled(parts)])
            _member(archive, "byteorder", lambda: [b"little"])
            for index, tensor in enumerate(parts):
                _member(archive, f"data/{index}", tensor.blocks)
            _member(archive, "version", lambda: [b"3\n"])
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)


def _member(archive: zipfile.ZipFile, name: str, blocks: Callable[[], Any]) -> None:
    info = zipfile.ZipInfo(f"archive/{name}")  # its date is 1980, so that equal weights make equal files
    assert archive.fp is not None
    # force_zip64 adds 20 bytes to the header, before which the padding's own header takes 4.
    used = archive.fp.tell() + 30 + len(info.filename) + 20 + 4
    padding = -used % 64
    info.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=True) as member:
        for block in blocks():
            member.write(block if isinstance(block, bytes) else memoryview(block).cast("B"))


def _pickled(parts: list[_Slice]) -> bytes:
    """Pickle the dictionary name → tensor with the opcodes that torch uses (protocol 2)."""
    out = [b"\x80\x02}("]
    for index, part in enumerate(parts):
        strides = (part.shape[1], 1) if len(part.shape) > 1 else (1,)
        out += [
            _text(part.name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _text("storage"),
            f"ctorch\n{_STORAGES[part.tensor.dtype]}\n".encode(),
            _text(str(index)),
            _text("cpu"),
            _number(prod(part.shape)),
            b"tQ",  # the tuple above is the storage's persistent id
            _number(0),
            _numbers(part.shape),
            _numbers(strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
    return b"".join([*out, b"u."])


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(_number(value) for value in values) + b"t"
