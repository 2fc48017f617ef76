"""LLM-as-a-judge in MT-bench's format (Zheng et al. 2023, arXiv:2306.05685).

`single`: one answer gets 1 to 10. `pairwise`: two answers are compared twice with their places exchanged, and only a
verdict that both games agree on counts. Answers and judgements come from callables; nothing here knows a model.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ninestory.core.errors import InvalidRequest
from ninestory.core.regular_file import read_regular_text

Ask = Callable[[list[dict[str, str]], float], str]  # messages, temperature → text
Winner = Literal["model_1", "model_2", "tie", "error"]

NO_RATING = -1.0
TIE_DELTA = 0.1
OTHER_TEMPERATURE = 0.7
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "stem": 0.1,
    "humanities": 0.1,
    **dict.fromkeys(("extraction", "math", "coding", "reasoning", "arena-hard-200"), 0.0),
}
NEEDS_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
_NUMBER = r"(\d+\.?\d*)"
_SLOT = re.compile(r"\{([a-z_0-9]+)\}")


@dataclass(frozen=True)
class JudgeQuestion:
    """A question of one or two turns. `reference`: a reference answer per turn, or empty."""

    id: str
    category: str
    turns: list[str]
    reference: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Grade:
    """A judge's rating of one turn; `score` is `NO_RATING` if the reply has none."""

    model: str
    question: str
    category: str
    turn: int
    score: float
    judgement: str


@dataclass(frozen=True)
class Match:
    """Two games with exchanged places about one turn."""

    model_1: str
    model_2: str
    question: str
    category: str
    turn: int
    g1_winner: Winner
    g2_winner: Winner
    g1_judgement: str = ""
    g2_judgement: str = ""

    @property
    def winner(self) -> Winner:
        """The winner if both games agree; a disagreement is a tie, an unparsable verdict an error."""
        if "error" in (self.g1_winner, self.g2_winner):
            return "error"
        return self.g1_winner if self.g1_winner == self.g2_winner else "tie"


def parse_rating(reply: str) -> float:
    """Parse the first `[[number]]`, else the first `[number]`, else return `NO_RATING`."""
    rating = re.search(rf"\[\[{_NUMBER}\]\]", reply) or re.search(rf"\[{_NUMBER}\]", reply)
    return float(rating[1]) if rating else NO_RATING


def parse_verdict(reply: str) -> str:
    """Parse a verdict as `A`, `B`, `tie` or `error`; `[[A]]` takes precedence over `[[B]]`, and that over `[[C]]`."""
    for letter, verdict in (("A", "A"), ("B", "B"), ("C", "tie")):
        if f"[[{letter}]]" in reply:
            return verdict
    return "error"


def parse_two_ratings(reply: str) -> str:
    """Parse `[[x,y]]` as a verdict; ratings within `TIE_DELTA` of each other are a tie."""
    pair = rf"{_NUMBER},\s?{_NUMBER}"
    ratings = re.search(rf"\[\[{pair}\]\]", reply) or re.search(rf"\[{pair}\]", reply)
    if not ratings:
        return "error"
    difference = float(ratings[1]) - float(ratings[2])
    if abs(difference) <= TIE_DELTA:
        return "tie"
    return "A" if difference > 0 else "B"


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fill the template's slots in one pass, so that braces inside an answer are not expanded."""
    return _SLOT.sub(lambda slot: values.get(slot[1], slot[0]), template)


def load_questions(source: str) -> list[JudgeQuestion]:
    """Load questions from a JSON-lines file in MT-bench's format, or the built-in set `en` or `zh`.

    Raises:
        InvalidRequest: the file cannot be read, or a line is not a question (the message has its number).
    """
    if source in ("en", "zh"):
        rows = [row for row in _data()["questions"] if row["language"] == source]
        return [
            JudgeQuestion(f"{source}-{i}", row["category"], row["turns"], row.get("reference", []))
            for i, row in enumerate(rows, 1)
        ]
    try:
        lines = read_regular_text(Path(source).expanduser()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"The questions {source} cannot be read: {error}.",
            hint="Name a JSON-lines file, or en or zh for the built-in questions.",
            hint_zh="请指定 JSON Lines 文件，或用 en、zh 选择内置问题。",
            param="questions",
        ) from error
    return [_question(line, source, number) for number, line in enumerate(lines, 1) if line.strip()]


def answer(question: JudgeQuestion, ask: Ask) -> list[str]:
    """Ask a model every turn, with the previous turns as context. The temperature depends on the category."""
    messages: list[dict[str, str]] = []
    answers = []
    for turn in question.turns:
        messages.append({"role": "user", "content": turn})
        text = ask(messages, TEMPERATURES.get(question.category, OTHER_TEMPERATURE))
        messages.append({"role": "assistant", "content": text})
        answers.append(text)
    return answers


def grade(model: str, question: JudgeQuestion, answers: Sequence[str], ask: Ask, language: str = "en") -> list[Grade]:
    """Rate every turn of a model's answers."""
    grades = []
    for turn in range(1, len(question.turns) + 1):
        reply = ask(judge_messages(question, [answers], turn, language), 0.0)
        grades.append(Grade(model, question.id, question.category, turn, parse_rating(reply), reply))
    return grades


def match(
    models: tuple[str, str],
    question: JudgeQuestion,
    answers: tuple[Sequence[str], Sequence[str]],
    ask: Ask,
    language: str,
) -> list[Match]:
    """Compare two models' answers turn by turn, each pair in both orders."""
    matches = []
    for turn in range(1, len(question.turns) + 1):
        first = ask(judge_messages(question, answers, turn, language), 0.0)
        second = ask(judge_messages(question, answers[::-1], turn, language), 0.0)
        winners = (winner_of(parse_verdict(first)), winner_of(parse_verdict(second), swapped=True))
        matches.append(Match(*models, question.id, question.category, turn, *winners, first, second))
    return matches


def winner_of(verdict: str, *, swapped: bool = False) -> Winner:
    """Map a verdict to its model: A is model 1, or model 2 if the positions were swapped."""
    if verdict in ("A", "B"):
        return "model_1" if (verdict == "A") != swapped else "model_2"
    return "tie" if verdict == "tie" else "error"


def judge_messages(
    question: JudgeQuestion, answers: Sequence[Sequence[str]], turn: int, language: str
) -> list[dict[str, str]]:
    """Build the judge's prompt for one turn: instructions, question, reference (if needed) and answers.

    Args:
        answers: answers of one model (rating) or two (comparison), each a list of turns.
    """
    words = _data()[language]
    reference = question.reference if question.category in NEEDS_REFERENCE else []
    single = len(answers) == 1
    told = [words["single" if single else "pairwise"], *[words["reference"]] * bool(reference)]
    names = [words["assistant"]] if single else [words["assistant_a"], words["assistant_b"]]
    if turn == 1:
        shown = [fill(words["question"], {"question": question.turns[0]})]
        shown += [fill(words["reference_block"], {"reference": reference[0]})] if reference else []
        values = {"answer": answers[0][0], "answer_a": answers[0][0], "answer_b": answers[-1][0]}
        shown.append(fill(words["answer" if single else "answers"], values))
    else:
        told.append(words["second_turn"])
        if len(reference) > 1:
            pair = {"reference_1": reference[0], "reference_2": reference[1]}
            shown = [fill(words["reference_conversation"], pair)]
        else:
            shown = []
        for name, texts in zip(names, answers, strict=True):
            values = {f"question_{i}": text for i, text in enumerate(question.turns, 1)}
            values |= {f"answer_{i}": text for i, text in enumerate(texts, 1)}
            shown.append(fill(words["conversation"], {**values, "name": name}))
    return [
        {"role": "system", "content": " ".join(told) if language == "en" else "".join(told)},
        {"role": "user", "content": "\n\n".join(shown)},
    ]


def score_table(grades: Iterable[Grade], turn: int | None = None) -> list[tuple[str, float]]:
    """(model, mean rating) over one turn or all, best first; grades without a rating are excluded."""
    scores: dict[str, list[float]] = {}
    for row in grades:
        if row.score != NO_RATING and turn in (None, row.turn):
            scores.setdefault(row.model, []).append(row.score)
    means = [(model, sum(values) / len(values)) for model, values in scores.items()]
    return sorted(means, key=lambda row: -row[1])


@dataclass(frozen=True)
class WinRow:
    """A model's wins, losses and ties; `win_rate_adjusted` counts a tie as half a win."""

    model: str
    win: int
    loss: int
    tie: int

    @property
    def win_rate(self) -> float:
        return self.win / (self.win + self.loss + self.tie)

    @property
    def loss_rate(self) -> float:
        return self.loss / (self.win + self.loss + self.tie)

    @property
    def win_rate_adjusted(self) -> float:
        return (self.win + self.tie / 2) / (self.win + self.loss + self.tie)


def win_table(matches: Iterable[Match], baseline: str | None = None) -> list[WinRow]:
    """Win rates, best first. With a `baseline`, only its matches count and its own row is omitted."""
    counts: dict[str, list[int]] = {}
    for row in matches:
        if row.winner == "error" or (baseline and baseline not in (row.model_1, row.model_2)):
            continue
        for model, name in ((row.model_1, "model_1"), (row.model_2, "model_2")):
            place = 2 if row.winner == "tie" else int(row.winner != name)
            counts.setdefault(model, [0, 0, 0])[place] += 1
    rows = [WinRow(model, *numbers) for model, numbers in counts.items() if model != baseline]
    return sorted(rows, key=lambda row: -row.win_rate_adjusted)


def _question(line: str, source: str, number: int) -> JudgeQuestion:
    try:
        row = json.loads(line)
        turns, reference = row["turns"], row.get("reference") or []
        if not turns or len(turns) > 2 or not all(isinstance(text, str) for text in [*turns, *reference]):
            raise ValueError("turns and reference must be lists of one or two strings")
        return JudgeQuestion(str(row.get("question_id", number)), str(row.get("category", "general")), turns, reference)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            f"{source}, line {number} is not a question: {type(error).__name__} {error}.",
            hint='Write lines like {"question_id": 1, "category": "writing", "turns": ["…", "…"]}.',
            hint_zh='每行形如 {"question_id": 1, "category": "writing", "turns": ["…", "…"]}。',
            param="questions",
        ) from error


def _data() -> dict[str, Any]:
    return tomllib.loads((resources.files("ninestory.catalog") / "judging" / "judge.toml").read_text(encoding="utf-8"))
