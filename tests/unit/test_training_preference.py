"""Preference optimisation against its formula by hand, and that the preference is learned."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from ninestory.core.progress import Silent  # noqa: E402
from ninestory.training.batches import PreferencePair, TokenRow  # noqa: E402
from ninestory.training.loss import chunked_label_losses  # noqa: E402
from ninestory.training.methods import adapt_model  # noqa: E402
from ninestory.training.objectives.causal import CausalObjective  # noqa: E402
from ninestory.training.objectives.preference import (  # noqa: E402
    PairsWithReference,
    PreferenceObjective,
    preference_objective,
    reference_log_probabilities,
)
from ninestory.training.run_folder import RunFolder  # noqa: E402
from ninestory.training.settings import Method, TrainSettings  # noqa: E402
from tests.tiny_training import rows, tiny_llama, trainer  # noqa: E402

BETA = 0.3


def pairs(count: int = 6) -> list[PreferencePair]:
    """One question, two answers of other lengths."""
    made = []
    for number, row in enumerate(rows(count)):
        half = len(row.ids) // 2
        worse = [*row.ids[:half], *((7 * token + number) % 299 + 1 for token in row.ids[half:]), 5]
        made.append(PreferencePair(row, TokenRow(worse, [-100] * half + worse[half:])))
    return made


def log_probability(model: Any, row: TokenRow) -> Any:
    """Of the learned tokens, by the plain softmax over the model's own logits."""
    logs = torch.log_softmax(model(torch.tensor([row.ids])).logits[0], -1)
    return sum(logs[i - 1, row.ids[i]] for i in range(1, len(row.ids)) if row.labels[i] != -100)


def by_hand(model: Any, base: Any, given: list[PreferencePair]) -> Any:
    """The mean of −log σ(β((log π(c) − log b(c)) − (log π(r) − log b(r)))), a pair at a time."""
    losses = []
    for pair in given:
        gains = [
            log_probability(model, row) - log_probability(base, row).detach() for row in (pair.chosen, pair.rejected)
        ]
        losses.append(-torch.log(1 / (1 + torch.exp(-BETA * (gains[0] - gains[1])))))
    return sum(losses) / len(losses)


def with_reference(base: Any, given: list[PreferencePair], folder: Path) -> PairsWithReference:
    forward = CausalObjective(base)
    kept = folder / "reference"
    return PairsWithReference(given, reference_log_probabilities(forward, given, range(len(given)), 40, Silent(), kept))


@pytest.mark.parametrize("changed", [{}, {"tie_word_embeddings": False}])
def test_loss_and_gradients_are_those_of_the_formula(changed: dict[str, Any], tmp_path: Path) -> None:
    base, model, expected = tiny_llama(0, **changed), tiny_llama(1, **changed), tiny_llama(1, **changed)
    given = pairs()
    loss = by_hand(expected, base, given)
    loss.backward()
    forward = PreferenceObjective(CausalObjective(model), BETA)
    made = forward.loss(list(with_reference(base, given, tmp_path)), 1 / len(given))
    made.backward()
    assert made.item() == pytest.approx(loss.item(), abs=1e-5)
    for (name, a), b in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)
    metrics = forward.metrics()
    assert metrics["margin"] == pytest.approx(metrics["chosen_reward"] - metrics["rejected_reward"])
    assert forward.metrics() == {}


def test_the_reference_is_the_base_and_is_kept_for_a_resume(tmp_path: Path) -> None:
    base, given = tiny_llama(0), pairs(3)
    found = with_reference(base, given, tmp_path)
    wanted = [log_probability(base, row).item() for pair in given for row in (pair.chosen, pair.rejected)]
    assert [n for pair in found for n in pair.reference] == pytest.approx(wanted, abs=1e-4)
    again = with_reference(tiny_llama(5), given, tmp_path)  # what stands there now is trained; the file is asked
    assert [pair.reference for pair in again] == [pair.reference for pair in found]
    assert PreferenceObjective(CausalObjective(base), BETA).evaluate(found[:]) == pytest.approx(
        (3 * math.log(2), 3), abs=1e-5
    )


def test_label_losses_have_the_gradient_of_the_plain_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 16, generator=generator, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator, requires_grad=True)
    bias = torch.randn(50, generator=generator, requires_grad=True)
    labels = torch.randint(0, 50, (300,), generator=generator)
    factors = torch.randn(300, generator=generator)
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T + bias, labels, reduction="none")
    made = chunked_label_losses(hidden, weight, bias, labels)
    torch.testing.assert_close(made, plain)
    wanted = torch.autograd.grad((plain * factors).sum(), (hidden, weight, bias))
    for a, b in zip(torch.autograd.grad((made * factors).sum(), (hidden, weight, bias)), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_preference_is_learned(method: Any, tmp_path: Path) -> None:
    model = tiny_llama()
    given = with_reference(model, pairs(), tmp_path)
    adapted = adapt_model(model, Method(name=method), seed=0, total_steps=25)
    settings = TrainSettings(max_steps=25, batch_size=6, learning_rate=1e-2, lr_scheduler="constant", save_every=0)
    folder = RunFolder(tmp_path)
    result = trainer(
        adapted, given, settings, folder, Silent(), held_out=given[:3], make_objective=preference_objective(BETA)
    ).run()
    assert result.losses[-1] < result.losses[0] - 0.1
    lines = list(folder.lines("step"))
    assert lines[-1]["margin"] > 0.1 and lines[-1]["accuracy"] == 1
    assert next(folder.lines("evaluation"))["accuracy"] == 1
    assert result.losses[0] == pytest.approx(math.log(2), abs=1e-5)
