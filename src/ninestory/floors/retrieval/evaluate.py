"""How well questions find their passages: hit rate, recall@k, MRR, nDCG, refusals and latency, per setting.

A question names the file that answers it, and with `heading` or `text` the passage. Without a set of questions the
headings of the documents are asked: such a set is marked generated, and flatters, since headings are searched too.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.core.regular_file import read_regular_text
from ninestory.floors.retrieval.gate import accepted_by
from ninestory.floors.retrieval.hits import Hit, SearchOptions
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, Thresholds
from ninestory.floors.retrieval.prompts import PROMPTS
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.floors.retrieval.terms import language_of

Find = Callable[[str, SearchOptions], Sequence[Hit]]


@dataclass(frozen=True)
class Question:
    """`file` "" marks a question that the documents do not answer."""

    question: str
    file: str = ""
    heading: str = ""
    text: str = ""

    def is_answered_by(self, hit: Hit) -> bool:
        return hit.file == self.file and self.heading in hit.context and self.text in hit.text


@dataclass(frozen=True)
class Scores:
    """Means over the questions that have an answer; `refused` of each kind where there are any."""

    questions: int
    hit_rate: float  # the first passage is right
    recall: float  # a right one is among the first k
    mrr: float
    ndcg: float
    refused_answerable: float | None
    refused_unanswerable: float | None
    p50_ms: float
    p99_ms: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_questions(path: Path) -> list[Question]:
    """JSON lines: {"question", "file", "heading"?, "text"?}; no file = not in the documents.

    Raises:
        InvalidRequest: a line is not such an object; names its number.
    """
    questions = []
    for number, line in enumerate(read_regular_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            questions.append(Question(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InvalidRequest(
                f"{path.name}, line {number}: {error}.",
                hint='Each line is {"question": "…", "file": "name", "heading": "…", "text": "…"}.',
                hint_zh='每行格式为 {"question": "…", "file": "文件名", "heading": "…", "text": "…"}。',
            ) from error
    return questions


def questions_of_headings(reader: ChunkReader, most: int = 200, seed: int = 0) -> list[Question]:
    """The documents' own headings as questions: a generated set."""
    if not reader.refresh():
        return []
    table = reader.all_rows(["file", "context"])
    pairs = sorted(set(zip(table["file"].to_pylist(), table["context"].to_pylist(), strict=True)))
    chosen = [
        Question(question=heading, file=file, heading=heading)
        for file, context in pairs
        if len(heading := context.split("\n", 1)[0].rsplit(" > ", 1)[-1]) >= 4
    ]
    return random.Random(seed).sample(chosen, min(most, len(chosen)))


def questions_of_feedback(base: KnowledgeBase) -> list[Question]:
    """The questions whose answers were found good, with the passages that those rested on; the latest thumb counts."""
    latest = {row["question"]: row for row in reversed(base.feedback())}
    return [
        Question(question=row["question"], file=row["file"], text=row["passage"])
        for row in latest.values()
        if row["good"] and row["file"]
    ]


def questions_by_model(reader: ChunkReader, say: Callable[[str], str], most: int = 40, seed: int = 0) -> list[Question]:
    """Questions that a chat model writes to passages: a generated set.

    Args:
        say: the model's reply to a prompt.
    """
    if not reader.refresh():
        return []
    table = reader.all_rows(["file", "text"])
    pairs = [
        pair for pair in zip(table["file"].to_pylist(), table["text"].to_pylist(), strict=True) if len(pair[1]) > 80
    ]
    made = []
    for file, text in random.Random(seed).sample(sorted(pairs), min(most, len(pairs))):
        lines = [
            line.strip() for line in say(PROMPTS[language_of(text)].make_question.format(passage=text)).splitlines()
        ]
        if question := next((line for line in lines if 4 <= len(line) <= 300), ""):
            made.append(Question(question=question, file=file, text=text[:80]))
    return made


def parse_setting(text: str) -> tuple[SearchOptions, str]:
    """ "hybrid,text_weight=0.3,rerank=late" → options and the reranker ("" = none).

    Raises:
        InvalidRequest: an unknown mode or name, or a value that is none.
    """
    mode, *pairs = text.split(",")
    reranker, fields = "", {"mode": mode}
    kinds: dict[str, Any] = {"candidates": int, "rank_constant": int, "text_weight": float, "neighbours": int}
    try:
        if mode not in ("hybrid", "vector", "text"):
            raise ValueError(mode)
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key == "rerank":
                reranker = value
            else:
                fields[key] = kinds[key](value)
    except (KeyError, ValueError) as error:
        raise InvalidRequest(
            f"The setting {text!r} cannot be used: {error}.",
            hint=f"Write hybrid, vector or text, then ,NAME=VALUE of {', '.join(kinds)}, rerank.",
            hint_zh=f"请写 hybrid、vector 或 text，再接 ,名称=值；名称为 {', '.join(kinds)}、rerank。",
            param="setting",
        ) from error
    return SearchOptions(**fields), reranker  # type: ignore[arg-type]


def evaluate(
    questions: Sequence[Question], find: Find, options: SearchOptions, thresholds: Thresholds | None
) -> Scores:
    """Ask every question with one setting; k is `options.limit`."""
    ranks: list[int | None] = []
    refused: dict[bool, list[bool]] = {True: [], False: []}
    seconds = []
    for question in questions:
        begun = time.perf_counter()
        hits = find(question.question, options)
        seconds.append(time.perf_counter() - begun)
        threshold = thresholds[language_of(question.question)] if thresholds else None
        refused[bool(question.file)].append(accepted_by(question.question, hits, threshold) is None)
        if question.file:
            ranks.append(next((n for n, hit in enumerate(hits, 1) if question.is_answered_by(hit)), None))
    seconds.sort()
    return Scores(
        questions=len(questions),
        hit_rate=_mean([rank == 1 for rank in ranks]),
        recall=_mean([rank is not None for rank in ranks]),
        mrr=_mean([1 / rank if rank else 0.0 for rank in ranks]),
        ndcg=_mean([1 / math.log2(rank + 1) if rank else 0.0 for rank in ranks]),
        refused_answerable=_mean(refused[True]) if refused[True] else None,
        refused_unanswerable=_mean(refused[False]) if refused[False] else None,
        p50_ms=1000 * seconds[len(seconds) // 2] if seconds else 0.0,
        p99_ms=1000 * seconds[min(int(len(seconds) * 0.99), len(seconds) - 1)] if seconds else 0.0,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
