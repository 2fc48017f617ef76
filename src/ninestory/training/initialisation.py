"""Where LoRA's factors start: PiSSA's principal directions, or what 4-bit packing has lost (LoftQ).

PiSSA (Meng et al. 2024): A and B hold the largest singular directions of W, and the base becomes the rest, so the
trained adapter belongs to that rest. It is saved as the difference to its own start, of twice the rank: that one
belongs to the original base and is loaded and merged like any other.

LoftQ (Li et al. 2023) with one step: A and B hold the largest directions of W − dequantised(W). The packed base stays
as it is, so one 4-bit copy serves every run. peft's own LoftQ packs by bitsandbytes and reads its modules; ours are
`NF4Linear`, so the arithmetic is done here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch

from ninestory.architectures.nf4_linear import NF4Linear
from ninestory.core.errors import InvalidRequest
from ninestory.training.method_spec import METHODS
from ninestory.training.settings import Method


def check_init(method: Method) -> None:
    """Check that the method allows its `init`.

    Raises:
        InvalidRequest: it does not.
    """
    if method.init != "default" and method.init not in method.spec.inits:
        fitting = [spec.name for spec in METHODS.values() if method.init in spec.inits]
        raise InvalidRequest(
            f"method.init {method.init} does not go with {method.name}; it is made for {' or '.join(fitting)}.",
            hint=f"Set method.name to {fitting[0]}, or method.init to default.",
            hint_zh=f"请将 method.name 设为 {fitting[0]}，或将 method.init 设为 default。",
            param="method.init",
        )


@torch.no_grad()
def initialise_loftq(module: Any, original: Callable[[str], torch.Tensor]) -> int:
    """LoftQ's start of every LoRA pair over an NF4 linear; returns how many there were.

    Args:
        original: the weight [out, in] before it was packed, by the linear's path in the base.
    """
    count = 0
    for path, layer in module.get_base_model().named_modules():
        base = getattr(layer, "base_layer", None)
        if not isinstance(base, NF4Linear) or not hasattr(layer, "lora_A"):
            continue
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight  # [r, in], [out, r]
        lost = original(path).float() - base.to_linear(torch.float32).weight
        u, s, v = torch.linalg.svd(lost, full_matrices=False)
        root = (s[: len(a)] / layer.scaling["default"]).sqrt()
        a.copy_(root[:, None] * v[: len(a)])
        b.copy_(u[:, : len(a)] * root)
        count += 1
    return count


def relative_to_original(
    trained: dict[str, torch.Tensor], initial: dict[str, torch.Tensor], config: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """PiSSA's factors as an adapter of the original base: B A − B₀ A₀ = [B, −B₀] [A; A₀], of twice the rank.

    Args:
        trained, initial: tensors in peft's names.
        config: adapter_config.json's values.
    """
    adapter = {}
    for name, tensor in trained.items():
        if ".lora_A." in name:
            adapter[name] = torch.cat([tensor, initial[name]], 0)
        elif ".lora_B." in name:
            adapter[name] = torch.cat([tensor, -initial[name]], 1)
        else:
            adapter[name] = tensor
    growth = sqrt(2) if config.get("use_rslora") else 2  # the scale stays alpha / r, or alpha / √r
    changes = {"r": 2 * config["r"], "lora_alpha": growth * config["lora_alpha"], "init_lora_weights": True}
    return adapter, {**config, **changes}
