"""Optimizers by the name that a recipe gives them."""

from __future__ import annotations

from typing import Any

import torch

from ninestory.core.errors import Unsupported
from ninestory.core.extras import require
from ninestory.training.settings import TrainSettings

PAGED_BITS = {"paged_adamw_32bit": 32, "paged_adamw_8bit": 8}


def check_optimizer(settings: TrainSettings) -> None:
    """Refuse an optimizer that cannot run on this machine, before anything is loaded.

    Raises:
        Unsupported: a paged optimizer without CUDA, or with weights that are sharded over processes.
    """
    if settings.optimizer not in PAGED_BITS:
        return
    if not torch.cuda.is_available():
        raise Unsupported(
            f"train.optimizer is {settings.optimizer}; without CUDA it must be adamw.",
            hint="Set train.optimizer to adamw: paging moves averages between a card and main memory.",
            hint_zh="请将 train.optimizer 设为 adamw：分页优化器需要 CUDA 显卡。",
            param="train.optimizer",
        )
    if settings.parallel == "fsdp2":
        raise Unsupported(
            f"train.optimizer is {settings.optimizer}; with fsdp2 it must be adamw.",
            hint="Set train.optimizer to adamw, or train.parallel to ddp.",
            hint_zh="请将 train.optimizer 设为 adamw，或将 train.parallel 设为 ddp。",
            param="train.optimizer",
        )


def make_optimizer(settings: TrainSettings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Make the recipe's AdamW over parameter groups; a group's own `lr` or `weight_decay` stands.

    Raises:
        Unsupported: as `check_optimizer`. MissingExtra: bitsandbytes is not installed.
    """
    check_optimizer(settings)
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer in PAGED_BITS:
        bitsandbytes = require("bitsandbytes", "train", f"The optimizer {settings.optimizer}")
        return bitsandbytes.optim.PagedAdamW(groups, optim_bits=PAGED_BITS[settings.optimizer], **options)
    return torch.optim.AdamW(groups, **options)
