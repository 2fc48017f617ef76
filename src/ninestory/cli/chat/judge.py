"""`ninestory judge`: models answer questions, and another model rates or compares the answers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninestory.cli.output import Json, print_json, print_table
from ninestory.core.errors import InvalidRequest

if TYPE_CHECKING:
    from ninestory.evaluation.judge import Ask, Grade, JudgeQuestion, Match
    from ninestory.floors.chat import ChatModel

app = typer.Typer()


@app.command()
def judge(
    models: Annotated[list[str], typer.Argument(help="Models to be judged.")],
    by: Annotated[str, typer.Option("--by", help="The judge: any model reference.")],
    mode: Annotated[str, typer.Option(help="single (1 to 10) or pairwise (two games, places exchanged).")] = "single",
    questions: Annotated[
        str, typer.Option(help="A JSON-lines file in MT-bench's form, or the built-in set en or zh.")
    ] = "en",
    baseline: Annotated[str | None, typer.Option(help="Pairwise: compare with this one of the models only.")] = None,
    language: Annotated[str, typer.Option(help="The language the judge is spoken to: en or zh.")] = "en",
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first questions.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 1024,
    judge_tokens: Annotated[int, typer.Option(help="Longest judgement in tokens.")] = 2048,
    context: Annotated[int | None, typer.Option(help="Tokens of a conversation.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Keep every answer and judgement in this file (JSON).")] = None,
    as_json: Json = False,
) -> None:
    """Answer, judge, and print the table. One model is loaded at a time."""
    from ninestory.core.paths import atomic_write
    from ninestory.evaluation import judge as judging

    _check(models, mode, baseline, language)
    asked = judging.load_questions(questions)[:limit]
    answers = {}
    for name in models:
        with _open(name, context) as model:
            answers[name] = _answers(name, model, asked, max_tokens, seed)
    with _open(by, context) as model:
        ask = _judging(model, judge_tokens, seed)
        rows: list[Any] = (
            _grades(ask, asked, answers, language)
            if mode == "single"
            else _matches(ask, asked, answers, language, baseline)
        )
    report = {
        "mode": mode,
        "judge": by,
        "questions": [dataclasses.asdict(question) for question in asked],
        "answers": answers,
        "judgements": [dataclasses.asdict(row) for row in rows],
    }
    if out:
        with atomic_write(out) as file:
            file.write(json.dumps(report, ensure_ascii=False, indent=1).encode())
    if as_json:
        print_json(report)
    elif mode == "single":
        _print_grades(rows)
    else:
        _print_matches(rows, baseline)


def _check(models: list[str], mode: str, baseline: str | None, language: str) -> None:
    fault = ""
    if mode not in ("single", "pairwise"):
        fault = f"--mode is {mode!r}, and single or pairwise was due."
    elif language not in ("en", "zh"):
        fault = f"--language is {language!r}, and en or zh was due."
    elif mode == "pairwise" and (len(models) < 2 or (baseline and baseline not in models)):
        fault = "A comparison takes at least two models, and the baseline is one of them."
    elif len(set(models)) != len(models):
        fault = "A model is named twice."
    if fault:
        raise InvalidRequest(
            fault,
            hint="For example: ninestory judge MODEL MODEL --by MODEL --mode pairwise",
            hint_zh="例如：ninestory judge 模型甲 模型乙 --by 裁判模型 --mode pairwise",
        )


def _open(name: str, context: int | None) -> ChatModel:
    from ninestory.core.config import load_settings
    from ninestory.library import load

    return load(name, slots=1, context=context or load_settings().settings.runtime.context)


def _answers(
    name: str, model: ChatModel, asked: list[JudgeQuestion], max_tokens: int, seed: int
) -> dict[str, list[str]]:
    from ninestory.evaluation.judge import answer

    def ask(messages: list[dict[str, str]], temperature: float) -> str:
        return model.chat(messages, temperature=temperature, max_tokens=max_tokens, seed=seed).text

    answers = {}
    for number, question in enumerate(asked, 1):
        print(f"\r{name}: answer {number} of {len(asked)}", end="", file=sys.stderr, flush=True)
        answers[question.id] = answer(question, ask)
    print(file=sys.stderr)
    return answers


def _judging(model: ChatModel, longest: int, seed: int) -> Ask:
    longest = min(longest, (model.info.context or 0) // 2 or longest)  # a remote model tells no context

    def ask(messages: list[dict[str, str]], temperature: float) -> str:
        return model.chat(messages, temperature=temperature, max_tokens=longest, seed=seed).text

    return ask


def _grades(ask: Ask, asked: list[JudgeQuestion], answers: dict[str, Any], language: str) -> list[Grade]:
    from ninestory.evaluation.judge import grade

    return [
        row
        for question in asked
        for name, given in answers.items()
        for row in grade(name, question, given[question.id], ask, language)
    ]


def _matches(
    ask: Ask, asked: list[JudgeQuestion], answers: dict[str, Any], language: str, baseline: str | None
) -> list[Match]:
    from ninestory.evaluation.judge import match

    pairs = [pair for pair in itertools.combinations(answers, 2) if baseline is None or baseline in pair]
    return [
        row
        for question in asked
        for a, b in pairs
        for row in match((a, b), question, (answers[a][question.id], answers[b][question.id]), ask, language)
    ]


def _print_grades(grades: list[Grade]) -> None:
    from ninestory.evaluation.judge import NO_RATING, score_table

    turns = [dict(score_table(grades, turn)) for turn in (1, 2)]
    columns = sorted({row.category for row in grades})
    by_category = {c: dict(score_table([row for row in grades if row.category == c])) for c in columns}
    unread = [row.model for row in grades if row.score == NO_RATING]
    means = dict(score_table(grades))
    names = [*means, *dict.fromkeys(name for name in unread if name not in means)]
    print_table(
        ["model", "mean", "first turn", "second turn", *columns, "unread"],
        [
            [
                name,
                *(f"{table[name]:.2f}" if name in table else "" for table in (means, *turns, *by_category.values())),
                unread.count(name),
            ]
            for name in names
        ],
    )


def _print_matches(matches: list[Match], baseline: str | None) -> None:
    from ninestory.evaluation.judge import win_table

    print_table(
        ["model", "win rate, ties half", "won", "lost", "tied"],
        [
            [row.model, f"{row.win_rate_adjusted:.3f}", row.win, row.loss, row.tie]
            for row in win_table(matches, baseline)
        ],
    )
    unread = sum(row.winner == "error" for row in matches)
    print(f"{len(matches)} comparisons; of {unread} no verdict could be read, and they are left out.")
