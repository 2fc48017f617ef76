"""The state of a run between two steps: counters beside the weights, to a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ninestory.training import checkpoints
from ninestory.training.checkpoints import TrainingCheckpoint
from ninestory.training.methods import AdaptedModel
from ninestory.training.objective import Objective
from ninestory.training.processes import full_tensor, shard_like


@dataclass
class TrainState:
    """Counters of a run.

    Attributes:
        step: optimizer steps done. best: (step, loss) of the best evaluation.
        evaluations_without_gain: since the best one.
        evaluated_step, saved_step: of the last evaluation and the last checkpoint.
        seen: summed size of all rows so far, in the objective's unit.
    """

    step: int = 0
    best: tuple[int, float] | None = None
    evaluations_without_gain: int = 0
    evaluated_step: int = 0
    saved_step: int = 0
    seen: float = 0


def to_checkpoint(
    state: TrainState, adapted: AdaptedModel, objective: Objective[Any], optimizer: torch.optim.Optimizer, world: int
) -> TrainingCheckpoint:
    """Collect all that a bit-exact resume needs; sharded tensors are gathered, so every process has to call it."""
    tensors = {f"weight.{name}": full_tensor(p.detach()) for name, p in adapted.trainable.items()}
    optimizer_numbers: dict[str, dict[str, float]] = {}
    for name, parameter in adapted.trainable.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{key}.{name}"] = full_tensor(value)
            else:
                optimizer_numbers.setdefault(name, {})[key] = value
    tensors |= {f"method.{name}": value for name, value in adapted.buffers().items()}
    tensors |= {f"objective.{name}": value for name, value in objective.buffers().items()}
    tensors["random"] = torch.get_rng_state()
    numbers = {
        "best": state.best,
        "evaluations_without_gain": state.evaluations_without_gain,
        "evaluated_step": state.evaluated_step,
        "seen": state.seen,
        "rank_pattern": adapted.rank_pattern,
        "optimizer": optimizer_numbers,
        "environment": checkpoints.environment(world),
    }
    return TrainingCheckpoint(state.step, tensors, numbers)


def from_checkpoint(
    checkpoint: TrainingCheckpoint, adapted: AdaptedModel, objective: Objective[Any], optimizer: torch.optim.Optimizer
) -> TrainState:
    """Restore weights, optimizer, buffers and torch's random generator; return the counters."""
    load_trainable(adapted, checkpoint)
    optimizer_numbers = checkpoint.numbers["optimizer"]
    saved_states: dict[str, dict[str, Any]] = {name: dict(values) for name, values in optimizer_numbers.items()}
    for full_name, tensor in _with_prefix(checkpoint, "optimizer.").items():
        key, _, name = full_name.partition(".")
        saved_states.setdefault(name, {})[key] = tensor
    for name, saved_state in saved_states.items():
        parameter = adapted.trainable[name]
        optimizer.state[parameter] = {key: _restored(value, parameter) for key, value in saved_state.items()}
    adapted.load_buffers(_with_prefix(checkpoint, "method."))
    adapted.rank_pattern = checkpoint.numbers["rank_pattern"]
    objective.load_buffers(_with_prefix(checkpoint, "objective."))
    torch.set_rng_state(checkpoint.tensors["random"])
    best = checkpoint.numbers["best"]
    return TrainState(
        step=checkpoint.step,
        best=(int(best[0]), float(best[1])) if best else None,
        evaluations_without_gain=checkpoint.numbers["evaluations_without_gain"],
        evaluated_step=checkpoint.numbers["evaluated_step"],
        saved_step=checkpoint.step,
        seen=checkpoint.numbers["seen"],
    )


@torch.no_grad()
def load_trainable(adapted: AdaptedModel, checkpoint: TrainingCheckpoint) -> None:
    """Copy a checkpoint's weights into the trainable parameters."""
    for name, parameter in adapted.trainable.items():
        parameter.copy_(shard_like(checkpoint.tensors[f"weight.{name}"], parameter))


def _restored(value: Any, parameter: torch.nn.Parameter) -> Any:
    """An optimizer's value where the optimizer keeps it: averages beside their parameter, step counters on the CPU."""
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return value.clone() if isinstance(value, torch.Tensor) else value
    moved = value.to(parameter.device, copy=True)
    return shard_like(moved, parameter) if value.shape == parameter.shape else moved


def _with_prefix(checkpoint: TrainingCheckpoint, prefix: str) -> dict[str, torch.Tensor]:
    """Tensors whose names begin with `prefix`, by the rest of the name."""
    return {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
