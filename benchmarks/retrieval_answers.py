"""Answers over documents: cited rightly, faithful, refused when the fact is missing; on the base of `retrieval.py`.

Twenty held-out questions a language are asked twice: of the whole knowledge base, and with the section that answers
them left out (the missing fact). The starter chat model writes the English answers; what the product gives with it, the
nearest sentences quoted, stands beside it in both languages. Answers are kept in WORK, so a run that was ended goes on.

    python benchmarks/retrieval_answers.py WORK > answers.md
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retrieval import chosen_threshold, halves, open_work, search_all_questions
from retrieval_corpus import language_of_file

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.floors.retrieval.answer import AnswerMode, citations, prepare, quoted
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.evaluate import Question
from ninestory.floors.retrieval.faithfulness import faithfulness
from ninestory.floors.retrieval.hits import SearchOptions
from ninestory.floors.retrieval.knowledge_base import Thresholds
from ninestory.floors.retrieval.search import search
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import Engine, Text

CHAT_MODEL = "starter:smollm2-135m-instruct"
QUESTIONS = 20  # a language
MOST_TOKENS = 120
WAYS: tuple[tuple[str, AnswerMode], ...] = (("en", "extract"), ("zh", "extract"), ("en", "generate"))
REFUSALS = re.compile(
    r"not (?:in|found in|mentioned in|contained in|part of|specified in|provided in) (?:the |these |any of the )?"
    r"(?:documents?|passages?|text)|do(?:es)? not (?:answer|mention|contain|provide|say|hold|specify)|资料中没有",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Asked:
    """A question, how it is answered, and whether the section that answers it is left out."""

    question: Question
    mode: AnswerMode
    without: bool


def answer(
    asked: Asked, reader: ChunkReader, embedder: Embedder, chat: Engine, thresholds: Thresholds
) -> dict[str, Any]:
    """One answer as the product gives it, and what it rests on."""
    question = asked.question
    vector = embedder.query(question.question)
    files = tuple(f.id for f in reader.base.files() if f.name != question.file) if asked.without else None
    hits = search(reader, question.question, vector, SearchOptions(file_ids=files))
    prepared = prepare(question.question, hits, thresholds=thresholds, context_tokens=2048, mode=asked.mode)
    text = prepared.text
    if prepared.request is not None:
        chunks = chat.run(replace(prepared.request, max_tokens=MOST_TOKENS), threading.Event())
        text = "".join(chunk.text for chunk in chunks if isinstance(chunk, Text)).strip()
    elif prepared.sentences:
        vectors = embedder.passages([sentence for _, sentence in prepared.sentences])
        text = quoted(prepared, vector.tolist(), vectors.tolist())
    cited = [c.passage for c in citations(text, prepared.passages)]
    return {
        "question": asdict(question),
        "without": asked.without,
        "mode": asked.mode,
        "text": text,
        "refused": prepared.reason == "not_found" or REFUSALS.search(text) is not None,
        "found": any(question.is_answered_by(hit) for hit in prepared.passages),
        "cited": len(cited),
        "cited_right": any(question.is_answered_by(hit) for hit in cited),
        "supported": _supported_citations(text, [hit.text for hit in prepared.passages]),
        "faithful": faithfulness(text, [hit.text for hit in prepared.passages]),
    }


def _supported_citations(text: str, passages: Sequence[str]) -> list[bool]:
    """For each line or sentence with a mark: whether the passage it names says it, by its words."""
    supported = []
    for statement in re.findall(r"[^\n]*?(?:\[\d{1,2}\])+", text):
        numbers = [int(n) for n in re.findall(r"\[(\d{1,2})\]", statement)]
        named = [passages[n - 1] for n in numbers if 1 <= n <= len(passages)]
        value = faithfulness(statement, named)
        supported.append(bool(named) and value is not None and value >= 0.5)
    return supported


def report(answers: Sequence[dict[str, Any]]) -> None:
    print(
        "| questions | answered by | n | right section among the passages | refused | with a citation | a citation of the "
        "right section | citations whose passage says it | faithful sentences |\n|---|---|---|---|---|---|---|---|---|"
    )
    for language, mode in WAYS:
        for without in (False, True):
            own = [a for a in answers if (a["without"], a["mode"], _language(a)) == (without, mode, language)]
            given = [a for a in own if not a["refused"]]
            marks = [ok for a in given for ok in a["supported"]]
            faithful = [a["faithful"] for a in given if a["faithful"] is not None]
            name = f"{language}, {'their section left out' if without else 'answerable'}"
            name += f" | {'the starter' if mode == 'generate' else 'quoting'}"
            shares = [
                _share(a["found"] for a in own),
                _share(a["refused"] for a in own),
                _share(a["cited"] > 0 for a in given),
                "" if without else _share(a["cited_right"] for a in given),
                _share(marks),
                f"{sum(faithful) / len(faithful):.2f}" if faithful else "",
            ]
            print(f"| {name} | {len(own)} | {' | '.join(shares)} |")
    print()


def _language(answer: dict[str, Any]) -> str:
    return language_of_file(Question(**answer["question"]))


def _share(values: Any) -> str:
    found = list(values)
    return f"{sum(found)} of {len(found)}"


def main() -> None:
    work = Path(sys.argv[1])
    base, engine, questions = open_work(work)
    found = {one.question: one for one in search_all_questions(base, Embedder(engine), questions, work)}
    tuning, held = halves(questions)
    threshold = chosen_threshold([found[q] for q in tuning])
    thresholds: Thresholds = {"en": threshold, "zh": threshold}
    chosen: list[Asked] = []
    for language, mode in WAYS:
        own = random.Random(0).sample([q for q in held if language_of_file(q) == language], QUESTIONS)
        chosen += [Asked(q, mode, without) for q in own for without in (False, True)]
    reader, embedder = ChunkReader(base), Embedder(engine)
    reader.refresh()
    chat = load_engine(resolve(CHAT_MODEL, Home.default()), RuntimeSettings(threads=1))
    kept = work / "answers.jsonl"
    answers = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    with kept.open("a", encoding="utf-8") as file:
        for asked in chosen[len(answers) :]:
            answers.append(answer(asked, reader, embedder, chat, thresholds))
            file.write(json.dumps(answers[-1], ensure_ascii=False) + "\n")
            file.flush()
    print(
        f"## Answers\n\n`benchmarks/retrieval_answers.py`: {QUESTIONS} held-out questions a language, {CHAT_MODEL}.\n"
    )
    report(answers)


if __name__ == "__main__":
    main()
