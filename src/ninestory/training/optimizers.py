"""Optimizers by the name that a recipe gives them."""

from __future__ import annotations

from typing import Any

import torch

from ninestory.training.settings import TrainSettings


def make_optimizer(settings: TrainSettings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Make AdamW over parameter groups; a group's own `lr` or `weight_decay` stands."""
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
