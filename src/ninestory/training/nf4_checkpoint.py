"""A checkpoint with its linears in 4 bits, in the layout that transformers and bitsandbytes read: quantise once, tune often.

Loading from it peaks below a third of what quantising in memory takes, since no full weight is ever there. Tensors are
quantised one at a time; their bits are those of `quantize` whatever the file's shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from ..architectures.nf4_linear import NESTED_BLOCK, quantize, state_tensors
from ..core.errors import Unsupported
from ..core.progress import Progress
from ..models.convert.checkpoint import Tensor, open_checkpoint
from ..models.convert.safetensors_writer import NewTensor, copy_companions, output_folder, write_json, write_shards
from ..models.convert.to_safetensors import copied
from ..runtimes.torch.load_model import linear_names

BLOCKSIZE = 64
_HEADER, _HEADER_BYTES = ".quant_state.bitsandbytes__nf4", 256  # one length for all, so that files can be laid out


def convert_to_nf4(source: Path, target: Path, progress: Progress) -> Path:
    """Write the checkpoint at `source` with every linear but the head in NF4 as the new folder `target`.

    Raises:
        Unsupported: its linears are packed already, or the family is not built in.
        Damaged: a file is unsound. Conflict: `target` exists.
    """
    checkpoint = open_checkpoint(source)
    if checkpoint.config.get("quantization_config") or checkpoint.config.get("quantization_bit"):
        raise Unsupported(
            f"{source.name} is quantised already.",
            hint="Name the folder of the unquantised release.",
            hint_zh="请指定未量化版本的目录。",
            param="model",
        )
    linears = linear_names(checkpoint)
    tensors: list[NewTensor] = []
    last = _OneQuantized()
    for tensor in checkpoint.tensors.values():
        tensors += _quantized(tensor, last) if tensor.name in linears else [copied(tensor)]
    job = {"kind": "nf4", "source": source.name, "fingerprint": checkpoint.fingerprint()}
    settings = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_compute_dtype": "float32",
    }
    with output_folder(target, job) as folder:
        write_shards(folder, tensors, job, progress)
        write_json(folder / "config.json", {**checkpoint.config, "quantization_config": settings})
        copy_companions(checkpoint, folder)
    return target


def _quantized(tensor: Tensor, source: _OneQuantized) -> list[NewTensor]:
    """The packed weight and its scales, in the order of the file; their sizes are known before anything is read."""
    count = tensor.shape[0] * tensor.shape[1]
    blocks = -(-count // BLOCKSIZE)
    parts = {
        "": ("U8", (-(-count // 2), 1)),
        ".absmax": ("U8", (blocks,)),
        ".quant_map": ("F32", (16,)),
        ".nested_absmax": ("F32", (-(-blocks // NESTED_BLOCK),)),
        ".nested_quant_map": ("F32", (256,)),
        _HEADER: ("U8", (_HEADER_BYTES,)),
    }
    return [
        NewTensor(f"{tensor.name}{part}", dtype, shape, partial(source.blocks, tensor, part))
        for part, (dtype, shape) in parts.items()
    ]


class _OneQuantized:
    """The parts of the weight that was asked for last: they are written one after another."""

    def __init__(self) -> None:
        self.name, self.parts = "", dict[str, bytes]()

    def blocks(self, tensor: Tensor, part: str) -> Iterator[bytes]:
        """One part of `tensor` in one piece."""
        if self.name != tensor.name:
            self.parts = {}  # before the next is made: never two at once
            self.name, self.parts = tensor.name, _parts(tensor)
        yield self.parts[part]


def _parts(tensor: Tensor) -> dict[str, bytes]:
    values = torch.from_numpy(tensor.view().copy())
    if tensor.dtype == "BF16":
        values = values.view(torch.bfloat16)
    packed, state = quantize(values, "nf4", BLOCKSIZE, double=True)
    parts = {"": packed} | {f".{name}": part for name, part in state_tensors(state).items()}
    encoded = {name: part.contiguous().numpy().tobytes() for name, part in parts.items()}
    encoded[_HEADER] = encoded[_HEADER].ljust(_HEADER_BYTES)  # JSON may end in blanks
    return encoded
