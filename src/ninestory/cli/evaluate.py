"""`ninestory evaluate ceval | perplexity`: measures of one model on files of one's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from ninestory.cli.output import Json, print_json, print_table
from ninestory.core.errors import InvalidRequest
from ninestory.core.regular_file import read_regular_text

app = typer.Typer(no_args_is_help=True, help="Measures of a model: ceval, perplexity.")
Model = Annotated[str, typer.Argument(help="Model reference.")]
Context = Annotated[int | None, typer.Option(help="Tokens of a prompt with its answer.")]


@app.command("ceval")
def ceval(
    model: Model,
    data: Annotated[Path, typer.Argument(help="C-Eval's folder (val/, dev/), or one of its CSV files.")],
    shots: Annotated[int, typer.Option(min=0, max=5, help="Examples before each question, from dev/.")] = 0,
    cue: Annotated[str, typer.Option(help="plain, prompt, or steps (let it reason first).")] = "plain",
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each subject.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 32,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Accuracy on Chinese multiple-choice questions, subject by subject."""
    from ninestory.evaluation import ceval as questions

    if cue not in questions.CUES:
        raise InvalidRequest(f"--cue is {cue!r}.", hint=f"Take one of {', '.join(questions.CUES)}.")
    files = _subjects(data)
    with _open(model, context) as loaded:

        def ask(prompt: str) -> str:
            return loaded.chat(prompt, temperature=0, max_tokens=max_tokens).text

        results = []
        for subject, file in files.items():
            head = ""
            if shots:
                dev = questions.read_items(file.parent.parent / "dev" / f"{subject}_dev.csv")[:shots]
                head = questions.examples(subject, dev, steps=cue == "steps")
            results.append(questions.run(subject, questions.read_items(file)[:limit], head, ask, cue))
    total = questions.Result("all", *(sum(getattr(r, n) for r in results) for n in ("items", "correct", "read")))
    if total.items == 0:
        raise InvalidRequest(
            f"{data} holds no question with an answer.",
            hint="Take val/, not test/.",
            hint_zh="请使用 val/ 而不是 test/。",
        )
    rows = [*results, total] if len(results) > 1 else results
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    print_table(
        ["subject", "accuracy", "questions", "unread"],
        [[r.subject, f"{r.correct / r.items:.3f}" if r.items else "", r.items, r.items - r.read] for r in rows],
    )


@app.command("perplexity")
def perplexity(
    model: Model,
    text: Annotated[Path, typer.Argument(help="A text file.")],
    context: Context = None,
    as_json: Json = False,
) -> None:
    """How well a model predicts a text; compare a model before and after tuning or quantising."""
    from ninestory.evaluation.perplexity import measure
    from ninestory.runtimes.protocol import ScoreItem, ScoreRequest, Scores

    try:
        content = read_regular_text(text.expanduser())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{text} cannot be read as text: {error}.", hint="Give a UTF-8 text file.") from error
    if not content.strip():
        raise InvalidRequest(f"{text} is empty.", hint="Give a text.", hint_zh="请提供文本。")
    with _open(model, context) as loaded:

        def score(piece: str) -> list[float]:
            chunks = loaded.run(ScoreRequest(items=[ScoreItem(context="", continuations=[piece])]))
            return [value for chunk in chunks if isinstance(chunk, Scores) for value in chunk.values[0][0]]

        # a character is a token at the worst (three, in a vocabulary without it)
        found = measure(content, score, window=max(100, (loaded.info.context or 0) // 4))
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    print(f"perplexity {found.perplexity:.3f}, {found.bits_per_byte:.4f} bits a byte, over {found.tokens} tokens")


def _subjects(data: Path) -> dict[str, Path]:
    """Subject → its file."""
    folder = data / "val" if (data / "val").is_dir() else data
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else [data]
    if not files:
        raise InvalidRequest(
            f"{data} holds no CSV files.",
            hint="Name C-Eval's folder or a file of it.",
            hint_zh="请指定 C-Eval 目录或其中的文件。",
        )
    return {file.stem.removesuffix("_val"): file for file in files}


def _open(name: str, context: int | None) -> Any:
    from ninestory.core.config import load_settings
    from ninestory.library import load

    return load(name, slots=1, context=context or load_settings().settings.runtime.context)
