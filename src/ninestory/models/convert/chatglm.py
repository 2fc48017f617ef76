"""ChatGLM-6B's int8 and int4 checkpoints, in the layout of the published ones, without torch.

Symmetric, one float16 scale a row; only the four linears of each layer. An int4 byte holds an even column in its high
nibble and the next in its low one (THUDM/chatglm-6b, quantization.py; `architectures/quantized_linear.py` reads it).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.core.progress import Progress, Silent
from ninestory.models.convert.checkpoint import Tensor, open_checkpoint, row_ranges
from ninestory.models.convert.safetensors_writer import (
    NewTensor,
    copy_companions,
    output_folder,
    write_json,
    write_shards,
)
from ninestory.models.convert.to_safetensors import copied

_LINEAR = re.compile(
    r"transformer\.layers\.\d+\.(attention\.(query_key_value|dense)|mlp\.dense_(h_to_4h|4h_to_h))\.weight"
)


def quantize_chatglm(source: Path, target: Path, bits: int, progress: Progress | None = None) -> Path:
    """Write the float16 checkpoint at `source` with int8 or int4 linears as the new folder `target`.

    Raises:
        InvalidRequest: other bits than 4 and 8. Unsupported: not ChatGLM-6B, or quantised already.
        Damaged: a file is unsound. Conflict: `target` exists.
    """
    if bits not in (4, 8):
        raise InvalidRequest(f"bits is {bits}; expected 4 or 8.", hint="Write --bits 4 or --bits 8.", param="bits")
    checkpoint = open_checkpoint(source)
    config = checkpoint.config
    if config.get("model_type") != "chatglm" or config.get("quantization_bit") or "num_layers" not in config:
        what = f"quantised to {config['quantization_bit']} bits" if config.get("quantization_bit") else "another model"
        raise Unsupported(
            f"{source.name} is {what}; expected the float16 checkpoint of ChatGLM-6B.",
            hint="Name the folder of the unquantised release.",
            hint_zh="请指定未量化版本的目录。",
            param="model",
        )
    tensors: list[NewTensor] = []
    for tensor in checkpoint.tensors.values():
        if _LINEAR.fullmatch(tensor.name):
            tensors += _quantized(tensor, bits)
        else:
            tensors.append(copied(tensor))
    job = {"kind": f"chatglm-int{bits}", "source": source.name, "fingerprint": checkpoint.fingerprint()}
    with output_folder(target, job) as folder:
        write_shards(folder, tensors, job, progress or Silent())
        write_json(folder / "config.json", {**config, "quantization_bit": bits})
        copy_companions(checkpoint, folder)
    return target


def _quantized(tensor: Tensor, bits: int) -> list[NewTensor]:
    if tensor.dtype not in ("F16", "F32") or len(tensor.shape) != 2 or tensor.shape[1] % 2:
        raise Unsupported(f"{tensor.name} is {tensor.dtype} of shape {tensor.shape}; expected a float16 matrix.")
    rows, columns = tensor.shape

    def both() -> Iterator[tuple[Any, Any]]:
        view = tensor.view()
        for start, stop in row_ranges(tensor.shape, 4):
            yield _rows(view[start:stop], bits)

    return [
        NewTensor(tensor.name, "I8", (rows, columns * bits // 8), lambda: (packed for packed, _ in both())),
        NewTensor(f"{tensor.name}_scale", "F16", (rows,), lambda: (scale for _, scale in both())),
    ]


def _rows(weight: Any, bits: int) -> tuple[Any, Any]:
    """Quantise rows to (packed int8, float16 scale), rounding every operation to the checkpoint's dtype as torch does."""
    import numpy as np

    most = 2 ** (bits - 1) - 1
    scale = (np.abs(weight).max(axis=1) / weight.dtype.type(most)).astype(np.float16)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.nan_to_num(np.rint(weight / scale[:, None]), nan=0.0, posinf=most, neginf=-most)  # a row of zeros
    steps = np.clip(steps, -most - 1, most).astype(np.int8)
    return (steps if bits == 8 else (steps[:, 0::2] << 4) | (steps[:, 1::2] & 15)), scale
