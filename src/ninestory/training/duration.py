"""How long the steps of a run will take: their arithmetic over the speed of one block, timed here just now.

The block has the model's proportions, frozen weights and low-rank matrices beside them, and is run forward and back.
Not counted: reading the model, evaluations and checkpoints. benchmarks/tuning_plan.py compares it with measured steps.
"""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch.nn import functional as F

from ninestory.training.plan import (
    TunedShape,
    TuningJob,
    linear_parameters,
    packing_of,
    trainable_parameters,
    trained_tables,
)
from ninestory.training.precision import autocast
from ninestory.training.processes import own_device

_WIDEST = 1024  # hidden units of the timed block: wider products run no slower for each of their operations
_TOKENS, _RANK, _HEAD = 256, 8, 64
# Widening packed weights once, in every pass of a micro-batch, takes as long as so many tokens more (measured).
_WIDENING = {"": 0, "nf4": 450, "gptq": 700}


def step_seconds(
    model: TunedShape,
    job: TuningJob,
    tokens: float,
    labels: float,
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> float:
    """Seconds of one optimiser step on this machine with the threads that torch has now.

    Args:
        tokens: of a step, padding counted; labels: of those the learned ones.
    """
    return step_operations(model, job, tokens, labels) / block_speed(model, precision)


def step_operations(model: TunedShape, job: TuningJob, tokens: float, labels: float) -> float:
    """Floating point operations of a step's products (a multiplication and an addition are two), and what takes the
    time of them."""
    linears, tables = linear_parameters(model), trained_tables(model, job)
    table = model.sizes.vocabulary * model.sizes.hidden
    reached = job.trainable_layers / model.sizes.layers if job.method == "freeze" else 1.0  # by the backward pass
    own_gradients = job.spec.trains_base
    passes = 1 + reached * (1 + own_gradients + job.checkpointing)
    factor_parameters = 0 if own_gradients else 3 * (trainable_parameters(model, job) - sum(tables) * table)
    trains_head = job.method == "full" or tables[1]
    widening = _WIDENING[packing_of(model, job)] * max(1, tokens / job.tokens)
    return 2 * (
        (tokens + widening) * passes * linears + tokens * factor_parameters + labels * table * (3 if trains_head else 2)
    )


def block_speed(model: TunedShape, precision: Literal["float32", "bfloat16", "auto"] = "float32") -> float:
    """Operations a second of one block of the model's proportions, forward and back."""
    device = torch.device(own_device())
    hidden = max(_HEAD, min(model.sizes.hidden, _WIDEST) // _HEAD * _HEAD)
    ffn = max(_HEAD, round(model.sizes.ffn * hidden / model.sizes.hidden))
    sizes = [(hidden, hidden)] * 4 + [(hidden, ffn)] * (model.mlp_matrices - 1) + [(ffn, hidden)]
    generator = torch.Generator().manual_seed(0)
    weights = [(torch.randn(n, m, generator=generator) / m**0.5).to(device) for m, n in sizes]
    factors = [
        (torch.zeros(_RANK, m, device=device, requires_grad=True), torch.zeros(n, _RANK, device=device, requires_grad=True))
        for m, n in sizes
    ]  # fmt: skip
    x = torch.randn(_TOKENS, hidden, generator=generator).to(device).requires_grad_()
    context = autocast(precision, device)

    def seconds() -> float:
        start = time.perf_counter()
        with context():
            output = _block(x, weights, factors)
        (gradient,) = torch.autograd.grad(output.float().sum(), [x])
        float(gradient.sum())  # a graphics processor answers when it is done
        return time.perf_counter() - start

    seconds()  # the first one makes ready what is output once
    best = min(seconds() for _ in range(3))
    operations = 4 * _TOKENS * sum(m * n + _RANK * (m + n) for m, n in sizes)
    return operations / best


def _block(
    x: torch.Tensor, weights: list[torch.Tensor], factors: list[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """[tokens, hidden] → the same: attention and MLP, each on what a norm gives, added to what came in."""

    def product(number: int, given: torch.Tensor) -> torch.Tensor:
        a, b = factors[number]
        return F.linear(given, weights[number]) + F.linear(F.linear(given, a), b)

    tokens, hidden = x.shape
    normed = F.rms_norm(x, (hidden,))
    query, key, value = (product(n, normed).view(1, tokens, -1, _HEAD).transpose(1, 2) for n in range(3))
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    x = x + product(3, attended.transpose(1, 2).reshape(tokens, hidden))
    normed = F.rms_norm(x, (hidden,))
    inner = F.silu(product(4, normed))
    if len(weights) > 6:
        inner = inner * product(5, normed)
    return x + product(len(weights) - 1, inner)
