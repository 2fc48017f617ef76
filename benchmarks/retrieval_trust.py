"""Whether answers from documents can be believed: identifiers, other languages, follow-ups that leave the topic.

Every set of questions is drawn into two halves, once, by seed. The thresholds of "not in the documents" and every
setting come from the first half; the figures are of the second one.

    python benchmarks/retrieval.py /usr WORK > quality.md      # makes the knowledge base
    python benchmarks/retrieval_trust.py /usr WORK > trust.md
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from retrieval import NEAR_TOPIC, OFF_TOPIC, halves, open_work, table
from retrieval_corpus import language_of_file
from retrieval_questions import (
    FollowUp,
    IdentifierQuestion,
    cross_language_questions,
    follow_ups_that_refer,
    identifier_questions,
    off_topic_follow_ups,
)

from ninestory.floors.retrieval.answer import citations, prepare, quoted, stands_alone
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.evaluate import Question
from ninestory.floors.retrieval.gate import accepted_by
from ninestory.floors.retrieval.hits import Hit, SearchOptions
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, Thresholds
from ninestory.floors.retrieval.search import search
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.floors.retrieval.terms import holds, language_of
from ninestory.runtimes.protocol import Message
from ninestory.serving.routes.system import processor_name

K = 5
T = TypeVar("T")


@dataclass(frozen=True)
class Searcher:
    """The knowledge base as a question meets it."""

    base: KnowledgeBase
    reader: ChunkReader
    embedder: Embedder

    def hits(self, question: str, options: SearchOptions | None = None) -> list[Hit]:
        vector = self.embedder.query(question)
        return search(self.reader, question, vector, options or SearchOptions(limit=K))


def drawn_halves(items: Sequence[T]) -> tuple[list[T], list[T]]:
    """The half that chooses, and the half that is measured."""
    drawn = list(items)
    random.Random(0).shuffle(drawn)
    return drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]


def calibrated(searcher: Searcher, tuning: Sequence[Question]) -> Thresholds:
    """By language, the cosine that 95 % of the tuning half's headings reach."""
    best: dict[str, list[float]] = {"en": [], "zh": []}
    for question in tuning:
        nearest = searcher.reader.nearest(searcher.embedder.query(question.question), 1, None)
        best[language_of(question.question)].append(nearest[0]["cosine"])
    return {"en": float(np.quantile(best["en"], 0.05)), "zh": float(np.quantile(best["zh"], 0.05))}


def report_recall(searcher: Searcher, held: Sequence[Question]) -> None:
    """Hybrid recall over the headings, as it is and without what is new here."""
    places: dict[str, list[bool]] = {"vectors": [], "full text": [], "hybrid": []}
    modes = {"vectors": SearchOptions(limit=K, mode="vector"), "full text": SearchOptions(limit=K, mode="text")}
    for question in held:
        for name in places:
            hits = searcher.hits(question.question, modes.get(name))
            places[name].append(any(hit.file == question.file for hit in hits))
    rows: list[list[object]] = [[name, len(found), float(np.mean(found))] for name, found in places.items()]
    table(["held-out headings", "n", f"recall@{K}"], rows)


def is_refused(searcher: Searcher, question: str, thresholds: Thresholds) -> bool:
    return accepted_by(question, searcher.hits(question), thresholds[language_of(question)]) is None


def report_refusals(searcher: Searcher, held: Sequence[Question], off_topic: Sequence[str], by: Thresholds) -> None:
    """What is refused by the thresholds of each language, with the rare terms that pass beside them."""
    asked = {
        "answerable, held out": [q.question for q in held],
        "answerable, held out, en": [q.question for q in held if language_of(q.question) == "en"],
        "answerable, held out, zh": [q.question for q in held if language_of(q.question) == "zh"],
        "other systems (near)": NEAR_TOPIC,
        "off topic": OFF_TOPIC,
        "off topic, the follow-ups' held-out half asked first": off_topic,
    }
    rows: list[list[object]] = []
    for name, questions in asked.items():
        rows.append([name, len(questions), float(np.mean([is_refused(searcher, q, by) for q in questions]))])
    table(["questions", "n", "refused"], rows)


def extracted(searcher: Searcher, question: str, hits: list[Hit], thresholds: Thresholds) -> str:
    """The quoting answer to a question."""
    prepared = prepare(question, hits, thresholds=thresholds, mode="extract")
    if prepared.reason != "extract":
        return prepared.text
    vectors = searcher.embedder.passages([text for _, text in prepared.sentences])
    text = quoted(prepared, searcher.embedder.query(question).tolist(), vectors.tolist())
    assert all(mark.quote in mark.passage.text for mark in citations(text, prepared.passages))
    return text


def report_identifiers(searcher: Searcher, held: Sequence[IdentifierQuestion], thresholds: Thresholds) -> None:
    """Answered = not refused, and a passage that holds the identifier is among the first five."""
    rows: list[list[object]] = []
    groups = [("all", held)]
    groups += [(kind, [q for q in held if q.kind == kind]) for kind in ("option", "file", "message")]
    groups += [(language, [q for q in held if q.language == language]) for language in ("en", "zh")]
    measured = {}
    for question in held:
        hits = searcher.hits(question.question)
        threshold = thresholds[language_of(question.question)]
        by_cosine = max(hit.cosine for hit in hits) >= threshold
        accepted = accepted_by(question.question, hits, threshold) is not None
        shown = any(hit.file in question.files for hit in hits)
        text = extracted(searcher, question.question, hits, thresholds)
        measured[question.question] = (by_cosine, accepted, accepted and shown, holds(text, question.identifier))
    for name, questions in groups:
        shares = np.mean([measured[q.question] for q in questions], axis=0)
        rows.append([name, len(questions), *map(float, shares)])
    title = ["identifier questions, held out", "n", "pass by cosine alone", "pass the gate", "answered", "quoted"]
    table(title, rows)


def report_languages(searcher: Searcher, held: Sequence[Question], own_files: dict[str, str]) -> None:
    """The heading of one language asked of the section in the other, with and without passages of the asking one."""
    ids = {file.name: file.id for file in searcher.base.files("indexed")}
    of_language = {
        language: tuple(ids[name] for name in ids if name.startswith(f"{language}-")) for language in ("en", "zh")
    }
    rows: list[list[object]] = []
    for asking, answering in (("en", "zh"), ("zh", "en")):
        questions = [q for q in held if language_of_file(q) == answering]
        for searched in ("the other language's", "all but its own"):
            found: dict[str, list[bool]] = {"vector": [], "text": [], "hybrid": []}
            for question in questions:
                files = of_language[answering]
                if searched != "the other language's":
                    files = tuple(ids[name] for name in ids if name != own_files[question.question])
                for mode in found:
                    options = replace(SearchOptions(limit=K, file_ids=files), mode=mode)  # type: ignore[arg-type]
                    hits = searcher.hits(question.question, options)
                    found[mode].append(any(hit.file == question.file for hit in hits))
            rows.append(
                [f"{asking} → {answering}", searched, len(questions), *(float(np.mean(v)) for v in found.values())]
            )
    table(
        ["questions → sections, held out", "passages searched", "n", "vectors", "full text", f"hybrid, recall@{K}"],
        rows,
    )


def is_answered(searcher: Searcher, follow_up: FollowUp, thresholds: Thresholds, own_gate: bool) -> bool:
    """Whether a follow-up is answered with citations, where no chat model rewrites it: beside the question before."""
    query = f"{follow_up.before} {follow_up.question}"
    alone = own_gate and stands_alone(follow_up.question, query)
    prepared = prepare(
        follow_up.question,
        searcher.hits(query),
        thresholds=thresholds,
        query=query,
        own_hits=searcher.hits(follow_up.question) if alone else None,
        mode="extract",
        history=[Message(role="user", content=follow_up.before)],
    )
    return prepared.reason != "not_found"


def report_follow_ups(
    searcher: Searcher, off_topic: Sequence[FollowUp], others: dict[str, Sequence[FollowUp]], thresholds: Thresholds
) -> None:
    groups = {
        "off topic": off_topic,
        "off topic, en": [f for f in off_topic if language_of(f.question) == "en"],
        "off topic, zh": [f for f in off_topic if language_of(f.question) == "zh"],
        **others,
    }
    rows: list[list[object]] = []
    for name, follow_ups in groups.items():
        shares = [
            float(np.mean([is_answered(searcher, one, thresholds, own) for one in follow_ups])) for own in (False, True)
        ]
        rows.append([name, len(follow_ups), *shares])
    table(["follow-ups, held out", "n", "answered by the gate on the joined question alone", "answered"], rows)


def main() -> None:
    root, work = Path(sys.argv[1]), Path(sys.argv[2])
    base, engine, questions = open_work(work)
    searcher = Searcher(base, ChunkReader(base), Embedder(engine))
    assert searcher.reader.refresh()
    tuning, held = halves(questions)
    thresholds = calibrated(searcher, tuning)
    identifiers = drawn_halves(identifier_questions(work / "sections"))[1]
    across = drawn_halves(cross_language_questions(root, questions))[1]
    off_topic = drawn_halves(off_topic_follow_ups(questions))[1]
    referring = drawn_halves(follow_ups_that_refer(questions))[1]
    moved_on = [FollowUp(a.question, b.question) for a, b in zip(held[:100], held[100:200], strict=True)]
    print(
        f"`benchmarks/retrieval_trust.py` on {processor_name()}: the same knowledge base; thresholds by the question's "
        f"language, the cosine that 95 % of the tuning half's headings reach: {thresholds['en']:.3f} English, "
        f"{thresholds['zh']:.3f} Chinese.\n"
    )
    report_recall(searcher, held)
    report_refusals(searcher, held, [f.question for f in off_topic], thresholds)
    report_identifiers(searcher, identifiers, thresholds)
    report_languages(searcher, across, {q.question: q.file for q in questions})
    others = {"refer to the question before": referring, "another heading of the manuals": moved_on}
    report_follow_ups(searcher, off_topic, others, thresholds)
    engine.close()


if __name__ == "__main__":
    main()
