"""Sampling: what is cut, what is drawn, and exactly one number a token from the request's own generator."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from ninestory.runtimes.torch.sampling import Rule, sample  # noqa: E402

pytestmark = pytest.mark.torch
PLAIN = Rule(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
FALLING = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()  # shuffled below, so that places and ids differ
ORDER = torch.tensor([2, 0, 3, 1])
LOGITS = FALLING[ORDER]  # probabilities 0.2, 0.4, 0.1, 0.3


def _drawn(rule: Rule, logits: torch.Tensor = LOGITS, count: int = 400, **given: object) -> Counter[int]:
    generator = torch.Generator().manual_seed(0)
    return Counter(sample(logits, rule, Counter(), generator, **given) for _ in range(count))  # type: ignore[arg-type]


def test_temperature_zero_takes_the_best_and_of_equals_the_first() -> None:
    assert _drawn(replace(PLAIN, temperature=0.0)) == {1: 400}
    assert _drawn(replace(PLAIN, temperature=0.0), torch.tensor([0.0, 1.0, 1.0, 0.5])) == {1: 400}


def test_the_whole_vocabulary_is_drawn_by_its_probabilities() -> None:
    drawn = _drawn(PLAIN, count=4000)
    for token, wanted in enumerate((0.2, 0.4, 0.1, 0.3)):
        assert abs(drawn[token] / 4000 - wanted) < 0.03


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (replace(PLAIN, top_k=2), {1, 3}),
        (replace(PLAIN, top_k=1), {1}),
        (replace(PLAIN, top_p=0.65), {1, 3}),
        (replace(PLAIN, top_p=0.75), {0, 1, 3}),
        (replace(PLAIN, top_p=0.01), {1}),
        (replace(PLAIN, min_p=0.6), {1, 3}),
        (replace(PLAIN, top_k=3, top_p=0.7), {1, 3}),  # of three the mass is 0.9: 0.44 and 0.33 cross 0.7
        (replace(PLAIN, min_p=1.0), {1}),
    ],
)
def test_only_what_the_rule_keeps_is_drawn(rule: Rule, kept: set[int]) -> None:
    assert set(_drawn(rule)) == kept


def test_top_p_beyond_the_short_list_still_holds_all_of_its_mass() -> None:
    """Five thousand equal tokens: 1024 of them are not half of the mass."""
    drawn = _drawn(replace(PLAIN, top_p=0.5), torch.zeros(5000), count=3000)
    assert set(drawn) <= set(range(2501)) and max(drawn) > 1500


def test_penalties_and_bias_change_the_choice() -> None:
    greedy = replace(PLAIN, temperature=0.0)
    generator = torch.Generator()
    logits = torch.tensor([2.0, 1.9, -1.0])
    seen = Counter({0: 3})
    assert sample(logits, replace(greedy, repetition_penalty=1.2), seen, generator) == 1
    assert sample(logits, replace(greedy, presence_penalty=0.5), seen, generator) == 1
    assert sample(logits, replace(greedy, frequency_penalty=0.04), seen, generator) == 1
    assert sample(logits, replace(greedy, frequency_penalty=0.03), seen, generator) == 0
    assert sample(logits, replace(greedy, logit_bias={2: 10.0}), Counter(), generator) == 2
    assert logits.tolist() == pytest.approx([2.0, 1.9, -1.0])
    negative = torch.tensor([-1.0, -1.1])
    assert sample(negative, replace(greedy, repetition_penalty=1.2), Counter({0: 1}), generator) == 1


def test_what_the_constraint_forbids_is_never_drawn() -> None:
    allowed = torch.tensor([True, False, True, False])
    for rule in (PLAIN, replace(PLAIN, top_k=2), replace(PLAIN, top_p=0.9), replace(PLAIN, temperature=0.0)):
        assert set(_drawn(rule, allowed=allowed)) <= {0, 2}


@pytest.mark.parametrize("rule", [PLAIN, Rule(), replace(PLAIN, temperature=0.0), replace(PLAIN, top_p=0.5)])
def test_one_number_is_drawn_whatever_the_settings(rule: Rule) -> None:
    generator, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    sample(LOGITS, rule, Counter(), generator)
    torch.rand((), generator=other, dtype=torch.float64)
    assert torch.equal(generator.get_state(), other.get_state())


def test_the_same_seed_draws_the_same_tokens() -> None:
    assert _drawn(Rule()) == _drawn(Rule())
