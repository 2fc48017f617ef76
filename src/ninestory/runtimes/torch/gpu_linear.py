"""Linears in 8 or 4 bits on a GPU, by bitsandbytes. On a processor `packed_linear.py` and GGUF files do this faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ninestory.core.extras import require

OUTLIERS = 6.0  # activations above are multiplied in float16 (Dettmers et al. 2022, LLM.int8())


@torch.no_grad()
def quantise_linears(model: Any, bits: int, device: torch.device) -> None:
    """Put 8- or 4-bit linears (LLM.int8(), NF4 with double quantisation) in the place of all but the head.

    Each weight goes to `device` packed, one after the other, so the model never stands there at full size.

    Raises:
        MissingExtra: bitsandbytes is not installed.
    """
    bnb = require("bitsandbytes", "train", f"{bits}-bit weights on a GPU")
    head, make = model.get_output_embeddings(), _eight_bits if bits == 8 else _four_bits
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(parent, name, make(bnb, child).to(device))
    model.to(device)


def _eight_bits(bnb: Any, linear: nn.Linear) -> Any:
    made = bnb.nn.Linear8bitLt(
        linear.in_features, linear.out_features, linear.bias is not None,
        has_fp16_weights=False, threshold=OUTLIERS, device="meta",
    )  # fmt: skip
    made.weight = bnb.nn.Int8Params(linear.weight.detach(), requires_grad=False, has_fp16_weights=False)
    made.bias = linear.bias
    return made.eval()


def _four_bits(bnb: Any, linear: nn.Linear) -> Any:
    made = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, linear.bias is not None,
        compute_dtype=linear.weight.dtype, quant_type="nf4", device="meta",
    )  # fmt: skip
    made.weight = bnb.nn.Params4bit(linear.weight.detach(), requires_grad=False, quant_type="nf4", module=made)
    made.bias = linear.bias
    return made.eval()
