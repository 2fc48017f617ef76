"""Sentence BLEU-4 with smoothing, as ChatGLM-6B's ptuning evaluation takes it: over characters, NLTK's method 3.

Sources: Papineni et al. 2002; Chen and Cherry 2014, smoothing 3 (NIST: a precision of zero counts 1 / 2ᵏ hits, k being
how many were zero so far).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ORDERS = 4


def bleu4(target: Sequence[str], prediction: Sequence[str]) -> float:
    """BLEU-4 of two token sequences (a string is a sequence of characters), 0 … 1; 0 where no token is common."""
    if not target or not prediction or not set(target) & set(prediction):
        return 0.0
    total, zeros = 0.0, 0
    for n in range(1, ORDERS + 1):
        wanted = Counter(tuple(target[i : i + n]) for i in range(len(target) - n + 1))
        made = Counter(tuple(prediction[i : i + n]) for i in range(len(prediction) - n + 1))
        hits, count = (wanted & made).total(), max(1, made.total())
        if not hits:
            zeros += 1
        total += math.log((hits or 0.5**zeros) / count) / ORDERS
    brevity = min(1.0, math.exp(1 - len(target) / len(prediction)))
    return brevity * math.exp(total)
