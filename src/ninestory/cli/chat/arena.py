"""`ninestory arena ls | battle | import | export`: blind comparisons of two models, kept as votes, rated."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ninestory.cli.client import DEFAULT, Server, running_server
from ninestory.cli.output import Json, print_json, print_table
from ninestory.core.errors import InvalidRequest
from ninestory.core.paths import Home
from ninestory.core.regular_file import read_regular_text

_PATH = "/ninestory/v1/votes"
_KEYS = {"a": "model_a", "b": "model_b", "t": "tie", "n": "both_bad"}
app = typer.Typer(no_args_is_help=True, help="Blind comparisons: ls, battle, import, export.")


def _store() -> Any:
    from ninestory.core.state import State
    from ninestory.serving.stores.votes import VoteStore

    return VoteStore(State(Home.default().ensure().state_db))


@app.command("ls")
def ls(
    blind_only: Annotated[
        bool, typer.Option("--blind-only", help="Only votes cast without knowing the names.")
    ] = False,
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """The leaderboard: Elo and Bradley-Terry with 95 % intervals."""
    from ninestory.evaluation.arena import leaderboard

    if client := running_server(server):
        rows = client.call("GET", f"{_PATH}/leaderboard", params={"blind_only": blind_only})["data"]
    else:
        rows = [dataclasses.asdict(row) for row in leaderboard(_store().battles(blind_only=blind_only))]
    if as_json:
        print_json(rows)
        return
    if not rows:
        print("No votes yet. 'ninestory arena battle MODEL MODEL' casts some, as does the page's compare view.")
        return
    print_table(
        ["model", "rating", "95 %", "elo", "battles", "won", "lost", "tied"],
        [
            [
                row["model"],
                f"{row['rating']:.0f}",
                f"{row['interval']['low']:.0f} … {row['interval']['high']:.0f}",
                f"{row['elo']:.0f}",
                *(row[name] for name in ("battles", "wins", "losses", "ties")),
            ]
            for row in rows
        ],
    )


@app.command("battle")
def battle(
    models: Annotated[list[str], typer.Argument(help="Two model references.")],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A question; may be repeated.")] = None,
    file: Annotated[Path | None, typer.Option(help="Questions, one a line.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 512,
    seed: Annotated[int | None, typer.Option(help="Fixes the sides and the answers.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of the conversation.")] = None,
) -> None:
    """Show two answers without names, ask which is better (a, b, t = tie, n = neither) and keep the votes."""
    from ninestory.core.config import load_settings
    from ninestory.library import load

    questions = [*(prompt or []), *(_lines(file) if file else [])]
    if len(models) != 2 or models[0] == models[1] or not questions:
        raise InvalidRequest(
            "A battle takes two different models and at least one question.",
            hint="For example: ninestory arena battle MODEL MODEL --prompt 'Why is the sky blue?'",
            hint_zh="例如：ninestory arena battle 模型甲 模型乙 --prompt '天为什么是蓝的？'",
        )
    draw, store = random.Random(seed), _store()
    options: dict[str, Any] = {"context": context or load_settings().settings.runtime.context, "slots": 1}
    with load(models[0], **options) as first, load(models[1], **options) as second:
        for question in questions:
            pair = [(models[0], first), (models[1], second)]
            draw.shuffle(pair)
            answers = [model.chat(question, max_tokens=max_tokens, seed=seed).text for _, model in pair]
            print(f"\n? {question}\n\n--- A\n{answers[0]}\n\n--- B\n{answers[1]}\n")
            names = {"model_a": pair[0][0], "model_b": pair[1][0]}
            texts = {"question": question, "answer_a": answers[0], "answer_b": answers[1]}
            store.add({**names, **texts, "winner": _asked(), "blind": True})
            print(f"A was {names['model_a']}, B was {names['model_b']}.")


@app.command("import")
def import_votes(
    file: Annotated[Path, typer.Argument(help="JSON lines: model_a, model_b, winner, and what else a vote may have.")],
) -> None:
    """Take votes from a file, all or none; Chatbot Arena's own lines are understood."""
    fields = ("model_a", "model_b", "winner", "blind", "question", "answer_a", "answer_b")
    store, count = _store(), 0
    with store.state.transaction():
        for number, line in enumerate(_lines(file), 1):
            try:
                row = json.loads(line)
                vote = {name: row[name] for name in fields if name in row}
                vote |= {"winner": "both_bad" if row["winner"] == "tie (bothbad)" else row["winner"]}
                vote |= {"blind": bool(row["anony"])} if "anony" in row else {}
                store.add({"model_a": row["model_a"], "model_b": row["model_b"], **vote})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InvalidRequest(
                    f"{file}, line {number} is not a vote: {type(error).__name__} {error}.",
                    hint='Write lines like {"model_a": "x", "model_b": "y", "winner": "model_a"}.',
                    hint_zh='每行形如 {"model_a": "x", "model_b": "y", "winner": "model_a"}。',
                ) from error
            count += 1
    print(f"{count} votes were taken in.")


@app.command("export")
def export() -> None:
    """All votes as JSON lines, oldest first."""
    votes, _ = _store().list(limit=sys.maxsize - 1)
    for vote in reversed(votes):
        print(json.dumps(vote, ensure_ascii=False))


def _asked() -> str:
    while True:
        print("better: a, b, t (tie) or n (neither)? ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            raise InvalidRequest(
                "The input ended before the vote.", hint="Votes cast before are kept.", hint_zh="此前的投票已保存。"
            )
        if line.strip().lower() in _KEYS:
            return _KEYS[line.strip().lower()]


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in read_regular_text(file).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} cannot be read as text: {error}.") from error
