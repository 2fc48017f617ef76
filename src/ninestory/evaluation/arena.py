"""Ratings from votes between two answers: Elo in the order of the votes, Bradley-Terry with bootstrap intervals.

Follows Chatbot Arena (Chiang et al. 2024, arXiv:2403.04132): a rating difference of `SCALE` points means odds of 10 to
1, a tie counts as half a win, and ratings start at 1000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ninestory.evaluation.battle import Battle

SCALE, BASE, START, K = 400.0, 10.0, 1000.0, 4.0
_SCORE_OF_A = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "both_bad": 0.5}
_MOST_STEPS = 100


@dataclass(frozen=True)
class Interval:
    """A bootstrap's median and 95 % interval."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Standing:
    """One leaderboard row: Bradley-Terry `rating` and online `elo`, each with its bootstrap interval."""

    model: str
    battles: int
    wins: int
    losses: int
    ties: int
    elo: float
    elo_interval: Interval
    rating: float
    interval: Interval


def online_elo(battles: Sequence[Battle], k: float = K) -> dict[str, float]:
    """Elo ratings after the battles in their order; a model starts at `START`."""
    ratings: dict[str, float] = {}
    for battle in battles:
        a, b = ratings.get(battle.model_a, START), ratings.get(battle.model_b, START)
        expected = 1 / (1 + BASE ** ((b - a) / SCALE))
        change = k * (_SCORE_OF_A[battle.winner] - expected)
        ratings[battle.model_a], ratings[battle.model_b] = a + change, b - change
    return ratings


def bradley_terry(
    battles: Sequence[Battle], *, anchor: tuple[str, float] | None = None, prior: float = 0.0
) -> dict[str, float]:
    """Maximum-likelihood ratings, which do not depend on the order of the votes; best first.

    Args:
        anchor: (model, rating) that fixes the scale; without it (or without the model) the mean is `START`.
        prior: strength of a Gaussian prior around the mean, in 1 / (400 points)². Without any, a model that won
            every battle has no finite rating and gets what `_MOST_STEPS` Newton steps lead to.
    """
    names, games, counts = _unique_games(battles)
    return _best_first(_rated(names, _fit(len(names), games, counts, prior), anchor))


def bootstrap_bradley_terry(
    battles: Sequence[Battle],
    rounds: int = 100,
    *,
    generator: np.random.Generator,
    anchor: tuple[str, float] | None = None,
    prior: float = 0.0,
) -> dict[str, Interval]:
    """95 % intervals from `rounds` multinomial resamplings of the distinct outcomes; best median first."""
    names, games, counts = _unique_games(battles)
    draws = generator.multinomial(len(battles), counts / counts.sum(), size=rounds)
    rows = [_rated(names, _fit(len(names), games, draw.astype(float), prior), anchor) for draw in draws]
    return _intervals(names, np.array([[row[name] for row in rows] for name in names]))


def bootstrap_elo(battles: Sequence[Battle], draws: np.ndarray, k: float = K) -> dict[str, Interval]:
    """95 % bootstrap intervals of online Elo; best median first.

    Args:
        draws: [battles, rounds], battle indices drawn with replacement. All rounds are computed together.
    """
    names = _names(battles)
    index = {name: i for i, name in enumerate(names)}
    games = [(index[battle.model_a], index[battle.model_b], _SCORE_OF_A[battle.winner]) for battle in battles]
    a, b, outcomes = (np.array(column)[draws] for column in zip(*games, strict=True))
    rounds = np.arange(draws.shape[1])
    ratings = np.full((len(names), draws.shape[1]), START)
    for first, second, outcome in zip(a, b, outcomes, strict=True):
        expected = 1 / (1 + BASE ** ((ratings[second, rounds] - ratings[first, rounds]) / SCALE))
        change = k * (outcome - expected)
        ratings[first, rounds] += change
        ratings[second, rounds] -= change
    return _intervals(names, ratings)


def style_controlled(
    battles: Sequence[Battle], *, anchor: tuple[str, float] | None = None, ridge: float = 0.5
) -> tuple[dict[str, float], list[float]]:
    """Ratings with the influence of length and formatting taken out (Li et al. 2024, "Does style matter?").

    Args:
        ridge: strength of the L2 penalty on ratings (in 400 points) and coefficients.

    Returns:
        ratings, best first, and one coefficient per style: the gain in logits per standard deviation.
    """
    names = _names(battles)
    a, b = (np.array([battle.style_a for battle in battles], float), np.array([x.style_b for x in battles], float))
    relative = (a - b) / (a + b + 1)
    features = (relative - relative.mean(0)) / relative.std(0)
    index = {name: i for i, name in enumerate(names)}
    design = np.zeros((len(battles), len(names) + features.shape[1]))
    rows = np.arange(len(battles))
    design[rows, [index[battle.model_a] for battle in battles]] = np.log(BASE)
    design[rows, [index[battle.model_b] for battle in battles]] -= np.log(BASE)
    design[:, len(names) :] = features
    outcomes = np.array([_SCORE_OF_A[battle.winner] for battle in battles])
    solution = _logistic(design, outcomes, np.ones(len(battles)), ridge)
    return _best_first(_rated(names, solution[: len(names)], anchor)), solution[len(names) :].tolist()


def win_fractions(battles: Sequence[Battle]) -> dict[str, dict[str, float | None]]:
    """[row][column]: share of battles against the column model that the row model won; a tie does not count as a win."""
    names = sorted(_names(battles))
    won: dict[tuple[str, str], int] = {}
    met: dict[tuple[str, str], int] = {}
    for battle in battles:
        pair, other = (battle.model_a, battle.model_b), (battle.model_b, battle.model_a)
        for key, winner in ((pair, "model_a"), (other, "model_b")):
            met[key] = met.get(key, 0) + 1
            won[key] = won.get(key, 0) + (battle.winner == winner)
    return {row: {c: won[row, c] / met[row, c] if (row, c) in met else None for c in names} for row in names}


def leaderboard(battles: Sequence[Battle], *, rounds: int = 100, seed: int = 0, prior: float = 0.25) -> list[Standing]:
    """The standings, best Bradley-Terry rating first.

    Args:
        prior: as in `bradley_terry`; 0.25 is a standard deviation of 800 points, so that a model with three votes,
            all won, has a rating that can be printed.
    """
    if not battles:
        return []
    elo = online_elo(battles)
    ratings = bradley_terry(battles, prior=prior)
    generator = np.random.default_rng(seed)
    intervals = bootstrap_bradley_terry(battles, rounds, generator=generator, prior=prior)
    elo_intervals = bootstrap_elo(battles, generator.integers(len(battles), size=(len(battles), rounds)))
    tallies = _tallies(battles)
    return [
        Standing(name, *tallies[name], elo[name], elo_intervals[name], rating, intervals[name])
        for name, rating in ratings.items()
    ]


def _tallies(battles: Sequence[Battle]) -> dict[str, tuple[int, int, int, int]]:
    """model → (battles, wins, losses, ties)."""
    tallies: dict[str, list[int]] = {}
    for battle in battles:
        outcome = {"model_a": (1, 2), "model_b": (2, 1)}.get(battle.winner, (3, 3))
        for model, column in zip((battle.model_a, battle.model_b), outcome, strict=True):
            row = tallies.setdefault(model, [0, 0, 0, 0])
            row[0] += 1
            row[column] += 1
    return {model: (row[0], row[1], row[2], row[3]) for model, row in tallies.items()}


def _names(battles: Sequence[Battle]) -> list[str]:
    """Model names in order of appearance: all `model_a` first, then `model_b`."""
    return list(dict.fromkeys([b.model_a for b in battles] + [b.model_b for b in battles]))


def _unique_games(battles: Sequence[Battle]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, the distinct (a, b, 2 × score of a) [games, 3] in lexicographic order, and how often each was."""
    names = _names(battles)
    index = {name: i for i, name in enumerate(names)}
    rows = [[index[b.model_a], index[b.model_b], round(2 * _SCORE_OF_A[b.winner])] for b in battles]
    games, counts = np.unique(np.array(rows), return_counts=True, axis=0)
    return names, games, counts.astype(float)


def _fit(models: int, games: np.ndarray, counts: np.ndarray, prior: float) -> np.ndarray:
    """Bradley-Terry strengths in units of `SCALE`, mean zero. [models]"""
    design = np.zeros((len(games), models))
    rows = np.arange(len(games))
    design[rows, games[:, 0]] += np.log(BASE)
    design[rows, games[:, 1]] -= np.log(BASE)
    return _logistic(design, games[:, 2] / 2, counts, prior)


def _logistic(design: np.ndarray, outcomes: np.ndarray, weights: np.ndarray, ridge: float) -> np.ndarray:
    """Weighted logistic regression by Newton's method with halved steps, from zero.

    Args:
        design: [rows, parameters]; outcomes: in [0, 1]; ridge: the penalty is ridge / 2 · |x|².
    """

    def loss(x: np.ndarray) -> float:
        logits = design @ x
        return float(weights @ (np.logaddexp(0, logits) - outcomes * logits) + ridge / 2 * x @ x)

    x = np.zeros(design.shape[1])
    current = loss(x)
    for _ in range(_MOST_STEPS):
        probabilities = 1 / (1 + np.exp(-(design @ x)))
        gradient = design.T @ (weights * (probabilities - outcomes)) + ridge * x
        if np.abs(gradient).max() < 1e-9 * max(1.0, weights.sum()):
            break
        curvature = design.T @ (design * (weights * probabilities * (1 - probabilities))[:, None])
        # pseudo-inverse: adding one number to all ratings changes nothing, so that direction is left at zero
        step = np.linalg.pinv(curvature + ridge * np.eye(len(x)), rcond=1e-12, hermitian=True) @ gradient
        scale = 1.0
        while scale > 1e-6 and loss(x - scale * step) > current:
            scale /= 2
        if scale <= 1e-6:
            break
        x = x - scale * step
        current = loss(x)
    return x


def _rated(names: Sequence[str], strengths: np.ndarray, anchor: tuple[str, float] | None) -> dict[str, float]:
    ratings = {name: float(SCALE * value + START) for name, value in zip(names, strengths, strict=True)}
    shift = anchor[1] - ratings[anchor[0]] if anchor and anchor[0] in ratings else 0.0
    return {name: rating + shift for name, rating in ratings.items()}


def _intervals(names: Sequence[str], ratings: np.ndarray) -> dict[str, Interval]:
    """Intervals per model from ratings [models, rounds], best median first."""
    quantiles = np.quantile(ratings, [0.025, 0.5, 0.975], axis=1).T
    intervals = {name: Interval(*map(float, row)) for name, row in zip(names, quantiles, strict=True)}
    return dict(sorted(intervals.items(), key=lambda item: -item[1].median))


def _best_first(ratings: dict[str, float]) -> dict[str, float]:
    return dict(sorted(ratings.items(), key=lambda item: -item[1]))
