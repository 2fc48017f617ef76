"""Adapters over packed weights: put 4-bit linears into a model, let peft wrap them, and take them out for merging.

QLoRA (NF4 blocks) and LLMTune (GPTQ packs) both train LoRA factors above frozen packed weights. Merging is exact only
into the dequantised base: packing the sum again throws the training away (0.38 of a logit on the oracle of
tests/fixtures/nf4), and the original base is not the one that was trained on (0.57).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers import PreTrainedModel

from ..architectures.nf4_linear import Code, NF4Linear
from ..runtimes.torch.adapters import PACKED_LINEARS


def replace_linears(model: nn.Module, make: Callable[[str, nn.Linear], nn.Module | None]) -> list[str]:
    """Put `make(name, linear)` in place of every plain linear for which it is not None; returns those names."""
    replaced = []
    for name, module in list(model.named_modules()):
        if type(module) is not nn.Linear or (made := make(name, module)) is None:
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, made)
        replaced.append(name)
    return replaced


def quantize_model(model: PreTrainedModel, code: Code = "nf4", blocksize: int = 64, double: bool = True) -> list[str]:
    """Put every linear but the output head into 4 bits, in place; returns their names.

    The head (`get_output_embeddings`) stays as it is, as in QLoRA.
    """
    head = model.get_output_embeddings()

    def pack(_: str, linear: nn.Linear) -> nn.Module | None:
        return None if linear is head else NF4Linear.from_linear(linear, code, blocksize, double)

    return replace_linears(model, pack)


def with_packed_targets(config: LoraConfig) -> LoraConfig:
    """Tell peft that its LoRA linear may stand above our packed linears (it adds to the output, not to the weight).

    peft warns once for each module that it does not know the type; the oracles of NF4 and LLMTune are the answer.
    """
    config._register_custom_module(dict.fromkeys(PACKED_LINEARS, LoraLinear))
    return config


def dequantize_model(model: nn.Module, dtype: torch.dtype | None = None) -> list[str]:
    """Put plain linears of the dequantised weights in place of NF4 ones; adapters are then merged into those."""
    names = []
    for name, module in list(model.named_modules()):
        if isinstance(module, NF4Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.to_linear(dtype))
            names.append(name)
    return names
