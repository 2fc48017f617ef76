"""Direct preference optimisation: of two answers to a question the better one is made likelier than its base has it.

Loss of a pair (Rafailov et al. 2023, "Direct Preference Optimization", equation 7), r = log p − log p of the base:

    −log σ(β · (r(chosen) − r(rejected)))

The base's log-probabilities do not change while the model is trained. They are taken once, before the first step and
before any adapter is put on: no second model lies in memory, and no step runs a second forward pass for them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ninestory.core.paths import atomic_write
from ninestory.core.progress import Progress
from ninestory.training.batches import Pair, micro_batches
from ninestory.training.forward import CausalForward, Forward
from ninestory.training.settings import TrainSettings


class PairsWithReference(Sequence[Pair]):
    """Pairs as they are, each with the base's log-probabilities once `reference_of` has been given them."""

    def __init__(self, pairs: Sequence[Pair], reference: Sequence[float]) -> None:
        self._pairs, self._reference = pairs, reference  # two numbers a pair

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index % len(self) if index < 0 else index
        return replace(self._pairs[place], reference=(self._reference[2 * place], self._reference[2 * place + 1]))


class PreferenceForward:
    """A model's forward for pairs, with the face of `CausalForward` that the loop uses."""

    def __init__(self, forward: CausalForward, beta: float) -> None:
        self.causal, self.beta = forward, beta
        self.model, self.device, self.packed = forward.model, forward.device, forward.packed
        self._seen: list[torch.Tensor] = []

    def loss(self, pairs: Sequence[Pair], scale: float) -> torch.Tensor:
        """scale · Σ over the pairs of their loss, differentiable."""
        return self._losses(pairs).sum() * scale

    @torch.no_grad()
    def token_losses(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """The loss of each pair, float32 [pairs]."""
        return self._losses(pairs)

    def figures(self) -> dict[str, float]:
        """Means over the pairs since it was last asked: β·r of both answers, their margin, and how often it is > 0."""
        if not self._seen:
            return {}
        chosen, rejected = torch.cat(self._seen, 1).double()  # each [pairs]
        self._seen = []
        return {
            "chosen_reward": chosen.mean().item(),
            "rejected_reward": rejected.mean().item(),
            "margin": (chosen - rejected).mean().item(),
            "accuracy": (chosen > rejected).double().mean().item(),
        }

    def _losses(self, pairs: Sequence[Pair]) -> torch.Tensor:
        made = self.causal.row_log_probabilities([row for pair in pairs for row in (pair.chosen, pair.rejected)])
        base = torch.tensor([pair.reference for pair in pairs], device=made.device)  # float32 [pairs, 2]
        rewards = self.beta * (made.view(-1, 2) - base)
        self._seen.append(rewards.detach().T)
        return -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1])


def forward_of(causal: CausalForward, settings: TrainSettings) -> Forward:
    """The forward of the recipe's objective."""
    return PreferenceForward(causal, settings.beta) if settings.objective == "dpo" else causal


@torch.no_grad()
def reference_of(
    base: CausalForward, pairs: Sequence[Pair], wanted: Iterable[int], budget: int, progress: Progress, kept: Path
) -> array[float]:
    """Log p of both answers of the wanted pairs under the base, two float32 a pair (0 for the others).

    Args:
        base: the model before anything of the method is put on it.
        wanted: indices of the pairs that a run will see.
        budget: tokens of one forward pass.
        kept: file where they stay for a resume, whose model is the base no more.
    """
    if kept.is_file() and kept.stat().st_size == 8 * len(pairs):
        return array("f", kept.read_bytes())
    reference = array("f", bytes(8 * len(pairs)))
    places = sorted(set(wanted))
    training = base.model.training
    base.model.eval()
    done = 0
    for start in range(0, len(places), 64):
        block = [pairs[i] for i in places[start : start + 64]]
        for piece in micro_batches([len(pair.ids) for pair in block], budget, padded=not base.packed):
            rows = [row for i in piece for row in (block[i].chosen, block[i].rejected)]
            made = base.row_log_probabilities(rows).tolist()
            for number, i in enumerate(piece):
                at = 2 * places[start + i]
                reference[at], reference[at + 1] = made[2 * number], made[2 * number + 1]
            done += len(piece)
            progress.update(done, len(places), "log-probabilities of the base")
    base.model.train(training)
    with atomic_write(kept) as file:
        file.write(reference.tobytes())
    return reference
