"""Adapter folders in peft's layout: loading them onto a base, merging them into it, adding several with weights.

Also the original LoRA layers of microsoft/LoRA, which later tools do not read: their factors as a change of the weight.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from torch import nn

from ..core.errors import InvalidRequest

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def load_adapter(base: nn.Module, folder: Path, name: str = "default") -> PeftModel:
    """Put the adapter in `folder` onto `base`, frozen and in eval mode; onto a `PeftModel` it is added beside the others.

    Raises:
        InvalidRequest: no settings, or weights as a pickle only, or tensors that do not belong to this base.
    """
    if not (folder / SETTINGS).is_file():
        raise InvalidRequest(
            f"{folder} is not an adapter folder; expected {SETTINGS} in it.",
            hint="Give the folder that holds adapter_config.json and adapter_model.safetensors.",
            hint_zh="请给出含有 adapter_config.json 和 adapter_model.safetensors 的文件夹。",
        )
    if not (folder / WEIGHTS).is_file():
        raise InvalidRequest(
            f"{folder} has no {WEIGHTS}; adapters stored as pickles are not supported.",
            hint="Convert it once: ninestory convert safetensors FOLDER.",
            hint_zh="请先转换一次：ninestory convert safetensors 文件夹。",
        )
    try:
        if isinstance(base, PeftModel):
            base.load_adapter(str(folder), adapter_name=name, use_safetensors=True)
            adapted = base
        else:
            adapted = PeftModel.from_pretrained(base, str(folder), adapter_name=name, use_safetensors=True)
    except RuntimeError as error:  # sizes that do not fit
        raise InvalidRequest(
            f"the adapter in {folder} does not fit this base: {error}",
            hint="It was trained on another model; adapter_config.json names it as base_model_name_or_path.",
            hint_zh="它是在另一个模型上训练的；adapter_config.json 的 base_model_name_or_path 写着是哪一个。",
        ) from error
    adapted.requires_grad_(False)  # peft leaves a loaded prompt trainable
    return adapted.eval()


def combine(model: PeftModel, weights: dict[str, float], name: str = "combined") -> PeftModel:
    """Make `Σ weight · adapter` the active adapter, exactly (the ranks add up: peft's "cat").

    Its "linear" mixes the factors and "svd" cuts the rank; neither is the sum (tests/fixtures/peft_math).
    """
    model.add_weighted_adapter(list(weights), list(weights.values()), name, combination_type="cat")
    model.set_adapter(name)
    return model


def loralib_delta(
    weight: torch.Tensor,
    lora_a: torch.Tensor,
    lora_b: torch.Tensor,
    scaling: float,
    *,
    fan_in_fan_out: bool = False,
    enabled: tuple[bool, ...] | None = None,
) -> torch.Tensor:
    """Compute the delta that microsoft/LoRA adds to `weight` on merging: scaling · B·A in the layout of `weight`.

    Args:
        lora_a, lora_b: [r, in] and [out, r] for a linear; for a convolution [r·k, in·k] and [out·k, r·k], whose product
            is laid out anew in the kernel's shape; for an embedding [r, rows] and [width, r], the product transposed.
        fan_in_fan_out: `weight` is kept as [in, out].
        enabled: for a fused linear (`MergedLinear`), which parts have factors; A then holds r rows for each of them and
            B its part of the outputs, and the other parts do not change.
    """
    if enabled is not None:
        parts = sum(enabled)
        products = [b @ a for a, b in zip(lora_a.chunk(parts), lora_b.chunk(parts), strict=True)]
        width = products[0].shape[0]
        zeros = torch.zeros(width, lora_a.shape[1], dtype=lora_a.dtype)
        remaining = iter(products)
        delta = torch.cat([next(remaining) if on else zeros for on in enabled])
        return scaling * (delta.T if fan_in_fan_out else delta)
    delta = scaling * (lora_b @ lora_a)
    if weight.dim() > 2:
        return delta.view(weight.shape)
    return delta.T if fan_in_fan_out or delta.shape != weight.shape else delta
