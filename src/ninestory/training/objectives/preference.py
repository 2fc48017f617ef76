"""Direct preference optimisation: of two answers to a question the better one is made likelier than its base has it.

Loss of a pair (Rafailov et al. 2023, "Direct Preference Optimization", equation 7), r = log p − log p of the base:

    −log σ(β · (r(chosen) − r(rejected)))

The base's log-probabilities do not change while the model is trained. They are taken once, before the first step and
before any adapter is put on: no second model lies in memory, and no step runs a second forward pass for them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ninestory.core.paths import atomic_write
from ninestory.core.progress import Progress
from ninestory.training.batches import PreferencePair, micro_batches
from ninestory.training.methods import AdaptedModel
from ninestory.training.objective import Objective
from ninestory.training.objectives.causal import CausalObjective, causal_objective


class PairsWithReference(Sequence[PreferencePair]):
    """Pairs, each with its log-probabilities under the base (see `reference_log_probabilities`)."""

    def __init__(self, pairs: Sequence[PreferencePair], reference: Sequence[float]) -> None:
        self._pairs, self._reference = pairs, reference  # two numbers a pair

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index % len(self) if index < 0 else index
        return replace(self._pairs[place], reference=(self._reference[2 * place], self._reference[2 * place + 1]))


class PreferenceObjective(Objective[PreferencePair]):
    """DPO's loss over pairs of answers. `beta`: how strongly the model is held to its base."""

    def __init__(self, causal: CausalObjective, beta: float) -> None:
        self.causal, self.beta = causal, beta
        self.model, self.device, self.packed = causal.model, causal.device, causal.packed
        self._rewards: list[torch.Tensor] = []  # each [2, pairs], since `metrics` was last called

    def loss(self, pairs: Sequence[PreferencePair], scale: float) -> torch.Tensor:
        """scale · Σ over the pairs of their loss, differentiable."""
        return self._losses(pairs).sum() * scale

    @torch.no_grad()
    def evaluate(self, pairs: Sequence[PreferencePair]) -> tuple[float, float]:
        """Return (sum of the pairs' losses, number of pairs)."""
        return float(self._losses(pairs).double().sum()), len(pairs)

    def metrics(self) -> dict[str, float]:
        """Return means over the pairs since the last call: β·r of both answers, their margin, how often it is > 0."""
        if not self._rewards:
            return {}
        chosen, rejected = torch.cat(self._rewards, 1).double()  # each [pairs]
        self._rewards = []
        return {
            "chosen_reward": chosen.mean().item(),
            "rejected_reward": rejected.mean().item(),
            "margin": (chosen - rejected).mean().item(),
            "accuracy": (chosen > rejected).double().mean().item(),
        }

    def _losses(self, pairs: Sequence[PreferencePair]) -> torch.Tensor:
        log_probabilities = self.causal.row_log_probabilities(
            [row for pair in pairs for row in (pair.chosen, pair.rejected)]
        )
        base = torch.tensor([pair.reference for pair in pairs], device=log_probabilities.device)  # float32 [pairs, 2]
        rewards = self.beta * (log_probabilities.view(-1, 2) - base)
        self._rewards.append(rewards.detach().T)
        return -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1])


def preference_objective(beta: float) -> Callable[[AdaptedModel], PreferenceObjective]:
    """Return the maker of DPO's objective, for the `Trainer`."""
    return lambda adapted: PreferenceObjective(causal_objective(adapted), beta)


@torch.no_grad()
def reference_log_probabilities(
    base: CausalObjective,
    pairs: Sequence[PreferencePair],
    wanted: Iterable[int],
    budget: int,
    progress: Progress,
    file: Path,
) -> array[float]:
    """Log p of both answers of the wanted pairs under the base, two float32 a pair (0 for the others).

    Args:
        base: the model before anything of the method is put on it.
        wanted: indices of the pairs that a run will see.
        budget: tokens of one forward pass.
        file: where they are kept for a resume, whose model is no longer the base.
    """
    if file.is_file() and file.stat().st_size == 8 * len(pairs):
        return array("f", file.read_bytes())
    reference = array("f", bytes(8 * len(pairs)))
    places = sorted(set(wanted))
    training = base.model.training
    base.model.eval()
    finished = 0
    for start in range(0, len(places), 64):
        block = [pairs[i] for i in places[start : start + 64]]
        for piece in micro_batches([pair.size for pair in block], budget, padded=not base.packed):
            rows = [row for i in piece for row in (block[i].chosen, block[i].rejected)]
            log_probabilities = base.row_log_probabilities(rows).tolist()
            for number, i in enumerate(piece):
                at = 2 * places[start + i]
                reference[at], reference[at + 1] = log_probabilities[2 * number], log_probabilities[2 * number + 1]
            finished += len(piece)
            progress.update(finished, len(places), "log-probabilities of the base")
    base.model.train(training)
    with atomic_write(file) as out:
        out.write(reference.tobytes())
    return reference
