"""How the next token is drawn: penalties → bias → temperature → top-k → top-p → min-p → one uniform number a token.

The short list is taken first (`topk`), so a vocabulary of 150,000 is never sorted. Exactly one number is drawn from
the request's own generator for each token, whatever the settings, so that a seed means the same thing in all of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch

from ninestory.core.errors import NinestoryError

_SHORT_LIST = 1024  # candidates looked at where top-p or min-p cut and no top-k says how many


@dataclass(frozen=True)
class Rule:
    """`protocol.Sampling` with every value settled."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)


def sample(
    logits: torch.Tensor,
    rule: Rule,
    seen: Counter[int],
    generator: torch.Generator,
    allowed: torch.Tensor | None = None,
) -> int:
    """The next token's id.

    Args:
        logits: float32 [vocabulary]; left as it is.
        seen: ids of the answer so far → how often.
        allowed: bool [vocabulary], False = the constraint forbids it.

    Raises:
        NinestoryError: no token is possible, or the logits are no numbers.
    """
    uniform = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device).item()
    scores = _adjusted(logits, rule, seen)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    if rule.temperature == 0:
        best = int(scores.argmax())
        _check(1.0 if scores[best] > -torch.inf else 0.0)
        return best
    probabilities, ids = _candidates(scores / rule.temperature, rule)
    cumulated = probabilities.double().cumsum(0)
    _check(float(cumulated[-1]))
    place = int(torch.searchsorted(cumulated, uniform * cumulated[-1], right=True))
    place = min(place, len(cumulated) - 1)
    return int(ids[place]) if ids is not None else place


def _check(mass: float) -> None:
    if not mass > 0:  # also not a number
        raise NinestoryError(
            "The model gives no token a probability.",
            hint="A bias or constraint excludes all of them, or the weights overflow: try float32.",
            hint_zh="偏置或约束排除了全部词元，或权重溢出：请尝试 float32。",
        )


def _adjusted(logits: torch.Tensor, rule: Rule, seen: Counter[int]) -> torch.Tensor:
    """Logits after the penalties and the bias; a copy only where something changes.

    Source of the first penalty: Keskar et al. 2019 (CTRL); of the others: OpenAI's API.
    """
    penalised = rule.repetition_penalty != 1 or rule.presence_penalty or rule.frequency_penalty
    if not rule.logit_bias and not (seen and penalised):
        return logits
    scores = logits.clone()
    if seen and penalised:
        ids = torch.tensor(list(seen), device=logits.device)
        counts = torch.tensor(list(seen.values()), dtype=logits.dtype, device=logits.device)
        values = scores[ids]
        values = torch.where(values > 0, values / rule.repetition_penalty, values * rule.repetition_penalty)
        scores[ids] = values - rule.presence_penalty - rule.frequency_penalty * counts
    for token, bias in rule.logit_bias.items():
        scores[token] += bias
    return scores


def _candidates(scores: torch.Tensor, rule: Rule) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(weights, ids) to draw from; ids None = the whole vocabulary in order."""
    size = len(scores)
    if not rule.top_k and rule.top_p >= 1 and rule.min_p <= 0:
        return scores.softmax(0), None
    values, ids = _top(scores, min(rule.top_k or _SHORT_LIST, size))
    whole = values.logsumexp(0) if rule.top_k else scores.logsumexp(0)
    probabilities = (values - whole).exp()
    if not rule.top_k and len(values) < size and _may_go_on(probabilities, rule):
        values, ids = _top(scores, size)
        probabilities = (values - whole).exp()
    keep = torch.ones_like(probabilities, dtype=torch.bool)
    if rule.top_p < 1:
        keep &= probabilities.cumsum(0) - probabilities < rule.top_p  # the one that crosses the line is kept
    if rule.min_p > 0:
        keep &= probabilities >= rule.min_p * probabilities[0]
    keep[0] = True
    return probabilities[keep], ids[keep]


def _top(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best `count` in falling order; of equal ones the lower id first."""
    _, ids = scores.topk(count, sorted=False)
    ids = ids.sort().values
    values, order = scores[ids].sort(descending=True, stable=True)
    return values, ids[order]


def _may_go_on(probabilities: torch.Tensor, rule: Rule) -> bool:
    """Whether candidates beyond the short list would be kept."""
    within_mass = bool(probabilities.sum() < rule.top_p)
    return within_mass and bool(probabilities[-1] >= rule.min_p * probabilities[0])
