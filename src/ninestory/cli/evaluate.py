"""`ninestory evaluate ceval | perplexity`: measures of one model on files of one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninestory.cli.output import Json, print_json, print_table
from ninestory.core.errors import InvalidRequest
from ninestory.core.regular_file import read_regular_text

if TYPE_CHECKING:
    from ninestory.evaluation.results import ResultsFile

app = typer.Typer(no_args_is_help=True, help="Measures of a model: ceval, perplexity.")
Model = Annotated[str, typer.Argument(help="Model reference.")]
ResultsPath = Annotated[
    Path | None,
    typer.Option("--results", help="Append answers to this JSONL file; what it already holds is not asked again."),
]
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
    results: ResultsPath = None,
    as_json: Json = False,
) -> None:
    """Accuracy on Chinese multiple-choice questions, subject by subject."""
    from ninestory.evaluation import ceval as suite
    from ninestory.evaluation.task import EvalCase, run_task

    if cue not in suite.CUES:
        raise InvalidRequest(f"--cue is {cue!r}; expected one of {', '.join(suite.CUES)}.", param="cue")
    files = _subjects(data)
    with _open(model, context) as loaded, _results(results, model, loaded) as stored:

        def ask(case: EvalCase) -> str:
            return str(loaded.chat(case.request, temperature=0, max_tokens=max_tokens).text)

        rows: list[dict[str, Any]] = []
        for subject, file in files.items():
            head = ""
            if shots:
                dev = suite.read_items(file.parent.parent / "dev" / f"{subject}_dev.csv")[:shots]
                head = suite.examples(subject, dev, steps=cue == "steps")
            task = suite.task(subject, suite.read_items(file)[:limit], head, cue, max_tokens)
            result = run_task(task, ask, results=stored)
            rows.append(
                {
                    "subject": subject,
                    "items": len(task.cases),
                    "correct": int(sum(result.values("correct"))),
                    "read": int(sum(result.values("read"))),
                }
            )
    total: dict[str, Any] = {"subject": "all", **{n: sum(row[n] for row in rows) for n in ("items", "correct", "read")}}
    if total["items"] == 0:
        raise InvalidRequest(
            f"{data} holds no question with an answer.",
            hint="Take val/, not test/.",
            hint_zh="请使用 val/ 而不是 test/。",
        )
    if len(rows) > 1:
        rows.append(total)
    if as_json:
        print_json(rows)
        return
    print_table(
        ["subject", "accuracy", "questions", "unread"],
        [
            [r["subject"], f"{r['correct'] / r['items']:.3f}" if r["items"] else "", r["items"], r["items"] - r["read"]]
            for r in rows
        ],
    )


@app.command("perplexity")
def perplexity(
    model: Model,
    text: Annotated[Path, typer.Argument(help="A text file.")],
    context: Context = None,
    results: ResultsPath = None,
    as_json: Json = False,
) -> None:
    """How well a model predicts a text; compare a model before and after tuning or quantising."""
    from ninestory.evaluation import perplexity as suite
    from ninestory.evaluation.task import EvalCase, run_task
    from ninestory.runtimes.protocol import ScoreItem, ScoreRequest, Scores

    try:
        content = read_regular_text(text.expanduser())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{text} cannot be read as text: {error}.", hint="Give a UTF-8 text file.") from error
    if not content.strip():
        raise InvalidRequest(f"{text} is empty.", hint="Give a text.", hint_zh="请提供文本。")
    with _open(model, context) as loaded, _results(results, model, loaded) as stored:

        def score(case: EvalCase) -> list[float]:
            chunks = loaded.run(ScoreRequest(items=[ScoreItem(context="", continuations=[case.request])]))
            return [value for chunk in chunks if isinstance(chunk, Scores) for value in chunk.values[0][0]]

        # a character is a token at the worst (three, in a vocabulary without it)
        task = suite.task(content, window=max(100, (loaded.info.context or 0) // 4))
        measured = suite.summarize(content, run_task(task, score, results=stored))
    if as_json:
        print_json(dataclasses.asdict(measured))
        return
    print(
        f"perplexity {measured.perplexity:.3f}, {measured.bits_per_byte:.4f} bits per byte, over {measured.tokens} tokens"
    )


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


@contextmanager
def _results(path: Path | None, reference: str, loaded: Any) -> Iterator[ResultsFile | None]:
    """The results file of this model, or None without a path."""
    from ninestory.core.paths import Home
    from ninestory.evaluation.results import ModelIdentity, ResultsFile
    from ninestory.models.adapter_base import fingerprint
    from ninestory.models.resolve import resolve

    if path is None:
        yield None
        return
    resolved = resolve(reference, Home.default())
    identity = ModelIdentity(
        model=fingerprint(resolved.path) if resolved.path else reference,
        adapter=" ".join(f"{fingerprint(adapter.path)}={adapter.weight:g}" for adapter in resolved.adapters),
        runtime=loaded.info.runtime,
        dtype=loaded.info.dtype,
    )
    with ResultsFile(path.expanduser(), identity) as results:
        yield results
