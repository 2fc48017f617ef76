"""`ninestory ls`, `rm`, `verify`, `import`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ninestory.cli.output import Json, print_json, print_table, size

app = typer.Typer()


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """Models on this machine."""
    from ninestory.library import list_models

    models = list_models()
    if as_json:
        print_json([dataclasses.asdict(m) for m in models])
    elif not models:
        print("No model is installed. 'ninestory pull starter:smollm2-135m-instruct' brings a small one.")
    else:
        print_table(
            ["model", "task", "size", "from"], [[m.reference, m.task, size(m.nbytes), m.source] for m in models]
        )


@app.command("rm")
def rm(model: Annotated[str, typer.Argument(help="Model reference.")], as_json: Json = False) -> None:
    """Delete a model's files."""
    from ninestory.library import remove

    removed = remove(model)
    print_json(dataclasses.asdict(removed)) if as_json else print(
        f"Removed {removed.reference} ({size(removed.nbytes)})."
    )


@app.command("verify")
def verify(
    model: Annotated[str, typer.Argument(help="Model reference, file or folder.")], as_json: Json = False
) -> None:
    """Check a model's files: every tensor named, typed and in bounds. Nothing of them is run."""
    from ninestory.library import verify as check

    report = check(model)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    types = ", ".join(f"{dtype} {size(nbytes)}" for dtype, nbytes in report.dtypes.items())
    print(
        f"{report.path.name}: sound. {len(report.files)} file(s), {report.tensors} tensors, {size(report.nbytes)} ({types})."
    )
    for note in report.notes:
        print(f"  note: {note}")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="Model file or checkpoint folder.")],
    name: Annotated[str, typer.Option("--name", help="NAME:VARIANT of the catalogue, or hf:org/name.")],
    as_json: Json = False,
) -> None:
    """Take a file or folder into the store; linked where possible, copied otherwise."""
    from ninestory.library import import_model

    model = import_model(path, name)
    print_json(dataclasses.asdict(model)) if as_json else print(f"Imported {model.reference} ({size(model.nbytes)}).")
