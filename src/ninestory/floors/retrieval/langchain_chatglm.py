"""The retrieval of langchain-ChatGLM 0.1.17, for comparison: hits widened by their neighbours in the index.

The index is a list: position is adjacency. Its habits are kept, also the one that loses every hit when none could be
widened; `search.py` is what this system answers with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class IndexedPassage:
    """One entry of the index.

    Attributes:
        expand: whether the passage may be widened when it is a hit.
        direction: where to look for neighbours.
        score: squared distance cut to an integer, of a result.
    """

    id: str
    text: str
    source: str
    expand: bool = True
    direction: Literal["both", "forward", "backward"] = "both"
    score: int | None = None


def nearest(vectors: NDArray[np.float32], query: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """The `k` nearest rows of `vectors` [n, d] to `query` [d]: (position, squared L2 distance), nearest first."""
    distances = ((vectors - query) ** 2).sum(axis=1)
    order = np.argsort(distances, kind="stable")[:k]
    return [(int(i), float(distances[i])) for i in order]


def expand_hits(
    passages: Sequence[IndexedPassage],
    hits: Sequence[tuple[int, float]],
    *,
    threshold: float,
    chunk_size: int,
    expand: bool,
) -> list[IndexedPassage]:
    """Widen each hit by its neighbours of the same source up to `chunk_size` characters; join neighbouring results.

    Args:
        hits: (position, squared distance), nearest first.
        threshold: hits farther than this are dropped; 0 keeps all.

    Returns:
        Passages that may not be widened first, then the joined runs in index order, with the best score of each run.
    """
    kept = [(i, distance) for i, distance in hits if not 0 < threshold < distance]
    alone = [(i, distance) for i, distance in kept if not (expand and passages[i].expand)]
    results = [replace(passages[i], score=int(distance)) for i, distance in alone]
    taken: set[int] = set()
    widened = False
    for i, _ in kept:
        if expand and passages[i].expand:
            taken.add(i)
            neighbours = _neighbours(passages, i, chunk_size, taken)
            taken |= neighbours
            widened |= bool(neighbours)
    if not widened:  # the original gives back nothing of what it meant to widen
        return results
    distance_of = dict(reversed(hits))
    for run in _runs(passages, sorted(taken)):
        score = int(min(distance_of[i] for i in run if i in distance_of))
        results.append(replace(passages[run[0]], text=" ".join(passages[i].text for i in run), score=score))
    return results


def delete_source(passages: Sequence[IndexedPassage], source: str) -> tuple[list[IndexedPassage], str]:
    """The index without the passages of `source`, positions closed up, and the original's words for the outcome."""
    left = [passage for passage in passages if passage.source != source]
    return left, "docs delete success" if len(left) < len(passages) else "docs delete fail"


def _neighbours(passages: Sequence[IndexedPassage], hit: int, chunk_size: int, taken: set[int]) -> set[int]:
    """Steps outwards until one neighbour is too long or of another source; both directions share the budget."""
    found: set[int] = set()
    length = len(passages[hit].text)
    steps = {"forward": (1,), "backward": (-1,), "both": (1, -1)}[passages[hit].direction]
    for distance in range(1, max(hit, len(passages) - hit)):
        for step in steps:
            place = hit + step * distance
            if place in taken or not 0 <= place < len(passages):
                continue
            neighbour = passages[place]
            if length + len(neighbour.text) > chunk_size or neighbour.source != passages[hit].source:
                return found
            length += len(neighbour.text)
            found.add(place)
    return found


def _runs(passages: Sequence[IndexedPassage], places: Sequence[int]) -> list[list[int]]:
    """Consecutive positions of one source."""
    runs = [[place] for place in places[:1]]
    for before, place in pairwise(places):
        if place == before + 1 and passages[place].source == passages[runs[-1][0]].source:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs
