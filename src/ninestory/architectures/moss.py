"""MOSS (moss-moon-003): CodeGen with another vocabulary, so transformers' own modules run it bit for bit.

What differs is the name in config.json, the stored causal masks, and the GPTQ-packed releases (`wbits` 4 or 8).
Source: OpenLMLab/MOSS, models/modeling_moss.py.
"""

from __future__ import annotations

import logging

import torch
from torch import nn
from transformers import CodeGenConfig, CodeGenForCausalLM

from ninestory.architectures.gptq_linear import GPTQLinear

log = logging.getLogger(__name__)


class MossConfig(CodeGenConfig):
    """config.json of a MOSS checkpoint; `wbits` 32 means not quantised, `groupsize` -1 one group a row."""

    model_type = "moss"
    wbits: int = 32
    groupsize: int = 128


class MossForCausalLM(CodeGenForCausalLM):
    config_class = MossConfig

    def __init__(self, config: MossConfig) -> None:
        super().__init__(config)
        if config.wbits < 16:
            for block in self.transformer.h:
                _pack(block.attn, ("qkv_proj", "out_proj"), config)
                _pack(block.mlp, ("fc_in", "fc_out"), config)


def _pack(module: nn.Module, names: tuple[str, ...], config: MossConfig) -> None:
    """Replace linears by packed ones, except the head."""
    for name in names:
        linear = getattr(module, name)
        made = GPTQLinear(
            linear.in_features, linear.out_features, config.wbits, config.groupsize, linear.bias is not None
        )
        setattr(module, name, made)


def patch_keys(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop the causal masks that the original stored as buffers."""
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("attn.causal_mask")}
    if dropped := len(weights) - len(kept):
        log.info("MOSS checkpoint: %d stored causal masks dropped, they are computed", dropped)
    return kept
