"""GPTQ over a whole model, and as a checkpoint: block by block, so that each block is calibrated on what the quantised blocks before it give.

Only one block's Hessians and the calibration activations are held besides the model (LLMTune, `quantize`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..architectures.gptq_calibration import Hessian, Quantized, calibrate
from ..architectures.gptq_linear import GPTQLinear
from ..core.errors import InvalidRequest
from ..core.progress import Progress, Silent
from ..models.convert.checkpoint import open_checkpoint
from ..models.convert.safetensors_writer import NewTensor, copy_companions, output_folder, write_json, write_shards
from ..models.convert.to_safetensors import copied
from ..runtimes.torch.load_model import load_model_folder
from ..tokenizers.load import load_tokenizer
from .methods import blocks_of
from .quantized_base import replace_linears

LEAST_TOKENS = 16  # of a piece of calibration text
CHECKPOINT_SETTINGS = {
    "quant_method": "gptq",
    "checkpoint_format": "gptq",
    "sym": False,
}  # what GPTQ v1 readers look for


def quantize_with_calibration(
    model: PreTrainedModel,
    batches: Iterable[torch.Tensor],
    bits: int = 4,
    group_size: int = -1,
    *,
    activation_order: bool = False,
    damping: float = 0.01,
    report: Callable[[str, float], None] = lambda name, error: None,
) -> dict[str, float]:
    """Put `GPTQLinear`s in place of the linears of every block, in place; embeddings and the head stay.

    Args:
        batches: token ids [sequences, length] each; the originals take 128 sequences of 2,048 tokens.
        report: called with each linear's name and remaining error as it is done.

    Returns: the error of each linear, in the order of the work.

    Raises:
        InvalidRequest: no calibration data, or a width that the packing has no room for.
        Unsupported: no list of blocks.
    """
    prefix, blocks = blocks_of(model)
    with torch.no_grad():
        inputs = _inputs_of(blocks[0], model, batches)
        errors: dict[str, float] = {}
        for index, block in enumerate(blocks):
            hessians = _hessians(block, inputs)

            def pack(name: str, linear: nn.Linear, index: int = index, hessians: dict[str, Hessian] = hessians):
                quantized = calibrate(
                    linear.weight,
                    hessians[name].matrix,
                    bits,
                    group_size,
                    activation_order=activation_order,
                    damping=damping,
                )
                full = f"{prefix}.{index}.{name}"
                errors[full] = quantized.error or 0.0
                report(full, errors[full])
                return _packed(full, quantized, bits, linear.bias)

            replace_linears(block, pack)
            inputs = [((_hidden(block(*args, **kwargs)), *args[1:]), kwargs) for args, kwargs in inputs]
    model.config.quantization_config = CHECKPOINT_SETTINGS | {
        "bits": bits,
        "group_size": group_size,
        "desc_act": activation_order,
    }
    return errors


class _FirstBlockReached(Exception):
    """Stops the forward pass once the first block's arguments are recorded."""


def _inputs_of(block: nn.Module, model: PreTrainedModel, batches: Iterable[torch.Tensor]) -> list[tuple[tuple, dict]]:
    """The arguments with which `model` calls `block` for each batch; hidden states first, by position."""
    calls: list[tuple[tuple, dict]] = []

    def catch(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if not args:
            args = (kwargs.pop("hidden_states"),)
        calls.append((args, kwargs))
        raise _FirstBlockReached

    handle = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for ids in batches:
            try:
                model(input_ids=ids, use_cache=False)
            except _FirstBlockReached:
                continue
    finally:
        handle.remove()
    if not calls:
        raise InvalidRequest(
            "The calibration text is empty; expected at least two pieces of 16 tokens.",
            hint="Give some thousand tokens of ordinary text (the originals take 128 × 2,048).",
            hint_zh="请提供数千个词元的普通文本（原版使用 128 × 2048）。",
            param="data",
        )
    return calls


def _hessians(block: nn.Module, inputs: list[tuple[tuple, dict]]) -> dict[str, Hessian]:
    """Accumulate the Hessian of each linear's inputs while `block` runs over `inputs`."""
    linears = {name: module for name, module in block.named_modules() if type(module) is nn.Linear}
    hessians = {name: Hessian(linear.in_features, linear.weight.device) for name, linear in linears.items()}

    def add(hessian: Hessian, module: nn.Module, args: tuple) -> None:
        hessian.add(args[0])

    handles = [linear.register_forward_pre_hook(partial(add, hessians[name])) for name, linear in linears.items()]
    try:
        for args, kwargs in inputs:
            block(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return hessians


def _hidden(output: torch.Tensor | tuple) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _packed(name: str, quantized: Quantized, bits: int, bias: torch.Tensor | None) -> GPTQLinear:
    try:
        return GPTQLinear.from_quantized(quantized, bits, bias)
    except ValueError as error:
        raise InvalidRequest(
            f"{name}: {error}",
            hint=f"Both widths must be multiples of {32 // bits}.",
            hint_zh=f"两个宽度都必须是 {32 // bits} 的倍数。",
        ) from error


def convert_to_gptq(
    source: Path,
    target: Path,
    text: str,
    progress: Progress,
    *,
    bits: int = 4,
    group_size: int = -1,
    activation_order: bool = False,
    sequences: int = 128,
    length: int = 2048,
) -> dict[str, float]:
    """Calibrate the checkpoint folder `source` on `text` and write its packs as the new folder `target`.

    Args:
        sequences, length: `text` is cut into at most so many pieces of so many tokens (shorter texts into what there is).

    Returns: the remaining error of each linear.

    Raises:
        InvalidRequest: the text is shorter than two pieces of 16 tokens, or a width cannot be packed.
        Unsupported: a family that is not built in. Conflict: `target` exists.
    """
    checkpoint = open_checkpoint(source)
    model: Any
    model, loaded = load_model_folder(source)
    pieces = _pieces(load_tokenizer(source).encode(text), sequences, length)
    linears = [m for block in blocks_of(model)[1] for m in block.modules() if type(m) is nn.Linear]
    finished = iter(range(1, len(linears) + 1))

    def report(name: str, error: float) -> None:
        progress.update(next(finished), len(linears), name)

    job = {"kind": f"gptq-{bits}", "source": source.name, "fingerprint": checkpoint.fingerprint()}
    with output_folder(target, job) as folder:
        errors = quantize_with_calibration(
            model, pieces, bits, group_size, activation_order=activation_order, report=report
        )
        tensors: list[NewTensor] = []
        for name, tensor in checkpoint.tensors.items():
            place = loaded.loaded.get(name, "").removesuffix(".weight")
            packed = model.get_submodule(place) if place in errors and name.endswith(".weight") else None
            tensors += _packs(name.removesuffix(".weight"), packed) if packed else [copied(tensor)]
        write_shards(folder, tensors, job, Silent())
        settings = {**checkpoint.config, "quantization_config": model.config.quantization_config}
        write_json(folder / "config.json", settings)
        copy_companions(checkpoint, folder)
    return errors


def _pieces(ids: list[int], sequences: int, length: int) -> list[torch.Tensor]:
    """The calibration text as [1, length] pieces; a text shorter than two pieces is halved."""
    length = min(length, len(ids) // 2)
    if length < LEAST_TOKENS:
        return []
    return [torch.tensor([ids[i : i + length]]) for i in range(0, len(ids) - length + 1, length)][:sequences]


def _packs(stored: str, linear: nn.Module) -> list[NewTensor]:
    """The tensors of one packed linear under its stored name; its bias is written as it was."""
    tensors = []
    for key in ("qweight", "qzeros", "scales", "g_idx"):
        values = getattr(linear, key).detach().contiguous().numpy()
        kind = "F16" if key == "scales" else "I32"
        tensors.append(NewTensor(f"{stored}.{key}", kind, values.shape, partial(_one_block, values)))
    return tensors


def _one_block(values: Any) -> list[bytes]:
    return [values.tobytes()]
