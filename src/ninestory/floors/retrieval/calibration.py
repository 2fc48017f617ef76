"""The cosine below which the answer is "not in the documents", from the knowledge base itself, for each language.

Cosines of Chinese questions lie higher than those of English ones, so each language a question may be asked in has its
own threshold. Where there are headings in it, each sampled one is asked as a question of the text below it, embedded
without the heading; 95 % of such pairs lie above the threshold. A heading with an identifier that the text holds is
left out: the gate answers it whatever its cosine. Where there are fewer than eight, general questions are asked, which
hardly any documents answer: three quarters of their best cosines lie below it. Both catch the wrong topic, not the
missing fact: that is the chat model's to refuse.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
from ninestory.floors.retrieval.prompts import Language
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.floors.retrieval.terms import holds, identifiers, language_of

SAMPLE, FEWEST = 32, 8  # headings of a language
QUANTILE = 0.05
PROBE_QUANTILE = 0.75
PROBES: dict[Language, tuple[str, ...]] = {
    "en": (
        "How do I bake bread?", "Who won the football world cup?", "What causes rain?", "How is steel made?",
        "When was the violin invented?", "Which vaccines do dogs need?", "How do I grow tomatoes?",
        "What is the capital of Peru?", "How does a jet engine work?", "What is the plot of Hamlet?",
        "How do I treat a burn?", "What is compound interest?",
    ),
    "zh": (
        "面包怎么烤？", "世界杯冠军是谁？", "为什么会下雨？", "钢是怎么炼成的？", "小提琴是什么时候发明的？", "狗需要打哪些疫苗？",
        "怎样种西红柿？", "秘鲁的首都是哪里？", "喷气发动机如何工作？", "《哈姆雷特》讲了什么？", "烫伤怎么处理？", "什么是复利？",
    ),
}  # fmt: skip


def calibrate(base: KnowledgeBase, embedder: Embedder) -> dict[Language, float] | None:
    """Compute and store `thresholds`, a cosine by the question's language; None when the knowledge base is empty."""
    reader = ChunkReader(base)
    thresholds: dict[Language, float] = {}
    if reader.refresh() and base.published and base.published.rows:
        below = _headings(reader)
        for language, probes in PROBES.items():
            own = {heading: text for heading, text in below.items() if language_of(heading) == language}
            thresholds[language] = (
                _from_headings(own, embedder) if len(own) >= FEWEST else _from_probes(reader, embedder, probes)
            )
    base.put(thresholds=thresholds or None)
    return thresholds or None


def _headings(reader: ChunkReader) -> dict[str, str]:
    """Heading → the first passage below it; none that the gate accepts by an identifier."""
    below: dict[str, str] = {}
    table = reader.all_rows(["context", "text"])
    for context, text in zip(table["context"].to_pylist(), table["text"].to_pylist(), strict=True):
        heading = context.split("\n", 1)[0].rsplit(" > ", 1)[-1]
        if len(heading) >= 4 and heading not in below and not any(holds(text, one) for one in identifiers(heading)):
            below[heading] = text
    return below


def _from_headings(below: dict[str, str], embedder: Embedder) -> float:
    chosen = random.Random(0).sample(sorted(below), min(SAMPLE, len(below)))
    bodies = embedder.passages([below[heading] for heading in chosen])
    queries = np.stack([embedder.query(heading) for heading in chosen])
    return float(np.quantile((bodies * queries).sum(axis=1), QUANTILE))


def _from_probes(reader: ChunkReader, embedder: Embedder, probes: Sequence[str]) -> float:
    """The few questions that the documents do answer lie in the quarter above."""
    vectors = [embedder.query(question) for question in probes]
    best = [row["cosine"] for vector in vectors for row in reader.nearest(vector, 1, None)]
    return float(np.quantile(best, PROBE_QUANTILE))
