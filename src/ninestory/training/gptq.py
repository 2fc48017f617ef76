"""GPTQ over a whole model: block by block, so that each block is calibrated on what the quantised blocks before it give.

Only one block's Hessians and the calibration activations are held besides the model (LLMTune, `quantize`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from ..architectures.gptq_calibration import Hessian, Quantized, calibrate
from ..architectures.gptq_linear import GPTQLinear
from ..core.errors import InvalidRequest
from .quantized_base import replace_linears

CHECKPOINT_SETTINGS = {
    "quant_method": "gptq",
    "checkpoint_format": "gptq",
    "sym": False,
}  # what GPTQ v1 readers look for


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of the model's equal blocks: the longest ModuleList whose entries are of one class."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len({type(block) for block in m}) == 1]
    if not lists:
        raise InvalidRequest(
            f"{type(model).__name__} has no list of equal blocks to calibrate one after another",
            hint="Quantise it with NF4 instead, which needs no calibration.",
            hint_zh="请改用无需校准的 NF4 量化。",
        )
    return max(lists, key=len)


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
        InvalidRequest: no calibration data, no blocks, or a width that the packing has no room for.
    """
    blocks = decoder_blocks(model)
    prefix = next(name for name, module in model.named_modules() if module is blocks)
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


class _Reached(Exception):
    """The first block was called: what it was called with is all that is wanted."""


def _inputs_of(block: nn.Module, model: PreTrainedModel, batches: Iterable[torch.Tensor]) -> list[tuple[tuple, dict]]:
    """The arguments with which `model` calls `block` for each batch; hidden states first, by position."""
    seen: list[tuple[tuple, dict]] = []

    def catch(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if not args:
            args = (kwargs.pop("hidden_states"),)
        seen.append((args, kwargs))
        raise _Reached

    handle = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for ids in batches:
            try:
                model(input_ids=ids, use_cache=False)
            except _Reached:
                continue
    finally:
        handle.remove()
    if not seen:
        raise InvalidRequest(
            "there is no calibration text",
            hint="Give some thousand tokens of ordinary text (the originals take 128 × 2,048).",
            hint_zh="请提供数千个词元的普通文本（原版使用 128 × 2048）。",
            param="data",
        )
    return seen


def _hessians(block: nn.Module, inputs: list[tuple[tuple, dict]]) -> dict[str, Hessian]:
    """What each linear of `block` sees when it runs over `inputs`."""
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
