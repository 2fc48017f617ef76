"""`ninestory ls`, `rm`, `verify`, `import`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ninestory.cli.output import Json, print_json, print_table, size
from ninestory.core.paths import Home

app = typer.Typer()


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """Models on this machine."""
    from ninestory.models.store import list_installed

    models = list_installed(Home.default())
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
    from ninestory.models.store import remove

    removed = remove(Home.default(), model)
    print_json(dataclasses.asdict(removed)) if as_json else print(
        f"Removed {removed.reference} ({size(removed.nbytes)})."
    )


@app.command("verify")
def verify(
    model: Annotated[str, typer.Argument(help="Model reference, file or folder.")], as_json: Json = False
) -> None:
    """Check a model's files: every tensor named, typed and in bounds. Nothing of them is run."""
    from ninestory.models.resolve import resolve
    from ninestory.models.verify import verify as check

    path = Path(model).expanduser()
    if not path.exists():
        found = resolve(model, Home.default()).path
        if found is None:
            print(f"{model} is a remote model: there is nothing to check.")
            return
        path = found
    if path.is_dir() and (path / "model.onnx").is_file():
        path = path / "model.onnx"
        report = {"path": str(path), "files": [path.name], "nbytes": path.stat().st_size, "notes": ["assembled here"]}
        print_json(report) if as_json else print(f"{path.name}: assembled here from a verified starter.")
        return
    report_ = check(path)
    if as_json:
        print_json(dataclasses.asdict(report_))
        return
    types = ", ".join(f"{dtype} {size(nbytes)}" for dtype, nbytes in report_.dtypes.items())
    print(
        f"{path.name}: sound. {len(report_.files)} file(s), {report_.tensors} tensors, {size(report_.nbytes)} ({types})."
    )
    for note in report_.notes:
        print(f"  note: {note}")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="Model file or checkpoint folder.")],
    name: Annotated[str, typer.Option("--name", help="NAME:VARIANT of the catalogue, or hf:org/name.")],
    as_json: Json = False,
) -> None:
    """Take a file or folder into the store; linked where possible, copied otherwise."""
    from ninestory.models.store import import_path

    model = import_path(Home.default(), path, name)
    print_json(dataclasses.asdict(model)) if as_json else print(f"Imported {model.reference} ({size(model.nbytes)}).")
