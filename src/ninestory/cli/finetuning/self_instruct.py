"""`ninestory tune self-instruct`: new training tasks from seed tasks, written by any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ninestory.cli.output import Json, print_json


def self_instruct(
    out: Annotated[Path, typer.Argument(help="Folder for tasks.jsonl; the same folder again goes on where it was.")],
    model: Annotated[str, typer.Option(help="Model that writes the tasks, e.g. openai:gpt-4o-mini.")],
    language: Annotated[str, typer.Option(help="en or zh.")] = "en",
    seeds: Annotated[
        Path | None, typer.Option(help="Seed tasks as alpaca rows (json, jsonl); ours by default.")
    ] = None,
    count: Annotated[int, typer.Option(help="Tasks wanted.")] = 100,
    temperature: Annotated[float, typer.Option(help="Of the model.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the choice of demonstrations.")] = 0,
    as_json: Json = False,
) -> None:
    """Write new training tasks with a model, after a few examples; what is too like the others is left out."""
    import dataclasses

    from ninestory.core.progress_bar import ProgressBar
    from ninestory.floors.finetuning import SelfInstructSettings, read_seeds
    from ninestory.floors.finetuning import run_self_instruct as run
    from ninestory.floors.finetuning import self_instruct_writer as writer
    from ninestory.library import load

    settings = SelfInstructSettings(language=language, count=count, seed=seed)
    with load(model) as engine, ProgressBar(quiet=as_json) as bar:
        complete = writer(engine.run, language, temperature)
        made = run(read_seeds(seeds, language), complete, out, settings, bar)
    if as_json:
        print_json({"path": out / "tasks.jsonl", **dataclasses.asdict(made)})
        return
    share = made.kept / made.parsed if made.parsed else 0.0
    print(
        f"{out / 'tasks.jsonl'}: {made.kept} tasks of {made.parsed} well-formed ones ({share:.0%}), "
        f"{made.requests} requests, {made.prompt_tokens + made.completion_tokens:,} tokens."
    )
