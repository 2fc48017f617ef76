"""Answers over documents: cited rightly, faithful, refused when the fact is missing; on the base of `retrieval.py`.

Twenty held-out questions a language are asked twice: of the whole knowledge base, and with the section that answers
them left out (the missing fact). English is answered by the starter chat model, Chinese by the extractive mode, since
the starter does not speak it. Answers are kept in WORK, so a run that was ended goes on.

    python benchmarks/retrieval_answers.py WORK > answers.md
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from retrieval import chosen_threshold, halves, open_work, search_all_questions
from retrieval_corpus import language_of_file

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.floors.retrieval.answer import citations, languages_of, prepare, quoted
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.evaluate import Question
from ninestory.floors.retrieval.faithfulness import faithfulness
from ninestory.floors.retrieval.hits import SearchOptions
from ninestory.floors.retrieval.search import search
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import Engine, Text

CHAT_MODEL = "starter:smollm2-135m-instruct"
QUESTIONS = 20  # a language
MOST_TOKENS = 200
REFUSALS = re.compile(
    r"not (?:in|found in|mentioned in|contained in|part of|specified in|provided in) (?:the |these |any of the )?"
    r"(?:documents?|passages?|text)|do(?:es)? not (?:answer|mention|contain|provide|say|hold|specify)|资料中没有",
    re.IGNORECASE,
)


def ask(
    question: Question, without: bool, reader: ChunkReader, embedder: Embedder, chat: Engine, threshold: float
) -> dict[str, Any]:
    """One answer as the product gives it, and what it rests on."""
    vector = embedder.query(question.question)
    files = tuple(f.id for f in reader.base.files() if f.name != question.file) if without else None
    hits = search(reader, question.question, vector, SearchOptions(file_ids=files))
    languages = languages_of(CHAT_MODEL)
    prepared = prepare(question.question, hits, threshold=threshold, context_tokens=2048, model_languages=languages)
    text = prepared.text
    if prepared.request is not None:
        chunks = chat.run(replace(prepared.request, max_tokens=MOST_TOKENS), threading.Event())
        text = "".join(chunk.text for chunk in chunks if isinstance(chunk, Text)).strip()
    elif prepared.sentences:
        text = quoted(prepared, vector, embedder.passages([sentence for _, sentence in prepared.sentences]))
    cited = [c.passage for c in citations(text, prepared.passages)]
    return {
        "question": asdict(question),
        "without": without,
        "mode": prepared.reason,
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
    for language in ("en", "zh"):
        for without in (False, True):
            own = [a for a in answers if a["without"] == without and _language(a) == language]
            given = [a for a in own if not a["refused"]]
            marks = [ok for a in given for ok in a["supported"]]
            faithful = [a["faithful"] for a in given if a["faithful"] is not None]
            name = f"{language}, {'their section left out' if without else 'answerable'}"
            modes = sorted({a["mode"] for a in own} - {"not_found"})
            shares = [
                _share(a["found"] for a in own),
                _share(a["refused"] for a in own),
                _share(a["cited"] > 0 for a in given),
                "" if without else _share(a["cited_right"] for a in given),
                _share(marks),
                f"{sum(faithful) / len(faithful):.2f}" if faithful else "",
            ]
            print(f"| {name} | {', '.join(modes)} | {len(own)} | {' | '.join(shares)} |")
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
    chosen: list[Question] = []
    for language in ("en", "zh"):
        chosen += random.Random(0).sample([q for q in held if language_of_file(q) == language], QUESTIONS)
    reader, embedder = ChunkReader(base), Embedder(engine)
    reader.refresh()
    chat = load_engine(resolve(CHAT_MODEL, Home.default()), RuntimeSettings(threads=1))
    kept = work / "answers.jsonl"
    answers = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    with kept.open("a", encoding="utf-8") as file:
        for place, (question, without) in enumerate((q, w) for q in chosen for w in (False, True)):
            if place >= len(answers):
                answers.append(ask(question, without, reader, embedder, chat, threshold))
                file.write(json.dumps(answers[-1], ensure_ascii=False) + "\n")
                file.flush()
    print(
        f"## Answers\n\n`benchmarks/retrieval_answers.py`: {QUESTIONS} held-out questions a language, {CHAT_MODEL}.\n"
    )
    report(answers)


if __name__ == "__main__":
    main()
