"""The training objective: everything about a run that depends on what the rows are.

The `Trainer` knows steps, micro-batches, the learning rate and checkpoints; an `Objective` knows the loss. Language
models' objectives stand in `training/objectives/`, those of other floors in `floors/<name>/objectives/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from ninestory.training.batches import TrainingRow

if TYPE_CHECKING:
    from ninestory.training.methods import AdaptedModel


RowT = TypeVar("RowT", bound=TrainingRow)


class Objective(ABC, Generic[RowT]):
    """A loss over rows, with hooks at the borders of a step.

    Attributes:
        model: the module that is switched between training and evaluation mode.
        device: where `loss` expects its rows' tensors to be made.
        packed: a micro-batch costs the sum of its rows' sizes; False: the largest size times the number of rows.
        whole_batch: a step is never split into micro-batches (contrastive losses compare rows with one another).
        unit: what `row.size` counts: "tokens", "pictures" or "seconds".
    """

    model: torch.nn.Module
    device: torch.device
    packed: bool = True
    whole_batch: bool = False
    unit: str = "tokens"

    @abstractmethod
    def loss(self, rows: Sequence[RowT], scale: float) -> torch.Tensor:
        """Return scale · Σ row.weight · (loss of the row), a differentiable scalar.

        Args:
            scale: 1 / Σ row.weight of the whole step, so the micro-batches of a step add up to its mean loss.
        """

    @abstractmethod
    def evaluate(self, rows: Sequence[RowT]) -> tuple[float, float]:
        """Return (Σ row.weight · loss, Σ row.weight) of held-out rows, without gradients or dropout."""

    def before_step(self, rows: Sequence[RowT], rate: float) -> None:
        """Run before the gradients of a step are accumulated; an objective may step optimizers of its own here.

        Clipping, reduction over processes and the check for finite values are then the objective's too.

        Args:
            rows: all rows of the step, of every process.
            rate: learning rate of the step.
        """

    def after_step(self) -> None:
        """Run after the optimizer's step: move averages and momentum copies, push to queues."""

    def buffers(self) -> dict[str, torch.Tensor]:
        """Return the state that a resume needs: queues, copies, averages, the states of own optimizers."""
        return {}

    def load_buffers(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what `buffers` returned."""

    def parameter_groups(self, adapted: AdaptedModel) -> list[dict[str, Any]]:
        """Return the optimizer's groups; matrices are decayed, vectors (norms, biases) are not.

        A group may set `lr` (its ratio to the run's learning rate is kept by the schedule) and `weight_decay`.
        """
        parameters = adapted.trainable.values()
        return [
            {"params": [p for p in parameters if p.dim() > 1]},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]

    def metrics(self) -> dict[str, float]:
        """Return what was measured since the last call, beside the loss."""
        return {}
