"""C-Eval: Chinese multiple-choice questions, with Chinese-LLaMA-Alpaca's prompts and answer extraction."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ninestory.core.errors import InvalidRequest
from ninestory.core.regular_file import open_regular_text
from ninestory.evaluation.task import EvalCase, EvalTask

LETTERS = ("A", "B", "C", "D")
CUES = {"plain": "答案：", "prompt": "答案是什么？ ", "steps": "答案是什么？让我们一步一步思考，\n1."}
_CONCLUSION = re.compile(r"所以答案是(.+?)。")
_STATEMENTS = [
    re.compile(pattern)
    for pattern in (
        r"([ABCD])是正确的",
        r"选项([ABCD])正确",
        r"答案为([ABCD])",
        r"答案是([ABCD])",
        r"答案([ABCD])",
        r"选择([ABCD])",
        r"答案：([ABCD])",
        r"选择答案([ABCD])",
    )
]


@dataclass(frozen=True)
class Item:
    """One question. `answer` is its letter, "" in the hidden test set."""

    question: str
    choices: dict[str, str]
    answer: str = ""
    explanation: str = ""


def shown(item: Item, cue: str = "plain") -> str:
    """Format a question with its choices and the answer cue.

    Args:
        cue: a key of `CUES`.
    """
    return item.question + "".join(f"\n{letter}. {text}" for letter, text in item.choices.items()) + f"\n{CUES[cue]}"


def solved(item: Item, *, steps: bool = False) -> str:
    """Format a question with its answer, as a few-shot example."""
    if not steps:
        return f"{shown(item)}{item.answer}\n\n"
    reasoned = f"让我们一步一步思考，\n{item.explanation}\n所以答案是{item.answer}。"
    return f"{shown(item)}{reasoned}\n\n"


def examples(subject: str, items: Sequence[Item], *, steps: bool = False) -> str:
    """Build the few-shot part of a prompt."""
    head = f"以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n"
    return head + "".join(solved(item, steps=steps) for item in items)


def extract(generated: str, item: Item) -> tuple[str | None, bool]:
    """Extract (letter, whether the conclusion is explicit) from an answer; None if there is no letter."""
    conclusions = _CONCLUSION.findall(generated)
    if conclusions and conclusions[-1] in LETTERS:
        return conclusions[-1], True
    for pattern in _STATEMENTS:
        if found := pattern.search(generated):
            return found[1], False
    if found := re.search(r"[ABCD]", generated):
        return found[0], False
    by_text = {text: letter for letter, text in item.choices.items() if text}
    if by_text and (found := re.search("|".join(map(re.escape, by_text)), generated)):
        return by_text[found[0]], False
    return None, False


def read_items(file: Path) -> list[Item]:
    """Read one of C-Eval's CSV files (question, A, B, C, D and, if known, answer and explanation).

    Raises:
        InvalidRequest: the file is not a C-Eval file; the message has the row number.
    """
    items = []
    try:
        with open_regular_text(file, "utf-8-sig", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream), 2):
                if not row.get("question") or any(row.get(letter) is None for letter in LETTERS):
                    raise ValueError(f"row {number} is incomplete; expected a question and four choices")
                answer = (row.get("answer") or "").strip()
                choices = {letter: row[letter] for letter in LETTERS}
                items.append(Item(row["question"], choices, answer, row.get("explanation") or ""))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise InvalidRequest(
            f"{file} is not a C-Eval file: {error}.",
            hint="Use a CSV file with the columns question, A, B, C, D and answer.",
            hint_zh="其列为 question、A、B、C、D 与 answer。",
            param="data",
        ) from error
    return items


def task(subject: str, items: Sequence[Item], head: str = "", cue: str = "plain", max_tokens: int = 32) -> EvalTask:
    """Build a task from a subject's answered items, with the metrics `correct` and `read`.

    An answer from which no letter can be read counts as wrong, where the original guesses.

    Args:
        head: few-shot examples before each question.
        cue: a key of `CUES`.
        max_tokens: limit per answer; part of the stored result's key.
    """
    known = {f"{subject}/{number}": item for number, item in enumerate(items) if item.answer in LETTERS}

    def letter(case: EvalCase, output: str) -> str | None:
        return extract(output, known[case.id])[0]

    return EvalTask(
        name=f"ceval/{subject}",
        asked="generate",
        cases=[EvalCase(name, head + shown(item, cue), item.answer) for name, item in known.items()],
        metrics={
            "correct": lambda case, output: letter(case, output) == case.target,
            "read": lambda case, output: letter(case, output) is not None,
        },
        settings={"max_tokens": max_tokens},
    )
