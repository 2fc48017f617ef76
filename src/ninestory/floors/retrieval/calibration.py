"""The score below which the answer is "not in the documents", from the knowledge base's own headings.

Each sampled heading is asked as a question of the text below it, embedded without the heading; 95 % of such pairs lie
above the threshold. It catches the wrong topic, not the missing fact: that is the chat model's to refuse.
"""

from __future__ import annotations

import random

import numpy as np

from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
from ninestory.floors.retrieval.table import ChunkReader

SAMPLE, FEWEST = 48, 8
QUANTILE = 0.05


def calibrate(base: KnowledgeBase, embedder: Embedder) -> float | None:
    """Compute and store `threshold` (a cosine); None when there are fewer than eight headings to ask."""
    reader = ChunkReader(base)
    below: dict[str, str] = {}
    if reader.refresh():
        table = reader.all_rows(["context", "text"])
        for context, text in zip(table["context"].to_pylist(), table["text"].to_pylist(), strict=True):
            heading = context.split("\n", 1)[0].rsplit(" > ", 1)[-1]
            if len(heading) >= 4 and heading not in below:
                below[heading] = text
    threshold = None
    if len(below) >= FEWEST:
        chosen = random.Random(0).sample(sorted(below), min(SAMPLE, len(below)))
        bodies = embedder.passages([below[heading] for heading in chosen])
        queries = np.stack([embedder.query(heading) for heading in chosen])
        threshold = float(np.quantile((bodies * queries).sum(axis=1), QUANTILE))
    base.put(threshold=threshold)
    return threshold
