"""`ninestory pull`: a model from its hub."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ninestory.cli.output import Json, print_json, size

app = typer.Typer()


@app.command()
def pull(model: Annotated[str, typer.Argument(help="Model reference.")], as_json: Json = False) -> None:
    """Fetch a model: resumable, checked, and only what is needed. A job like any long work: see `ninestory jobs`."""
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.library import pull as fetch

    with ProgressBar(quiet=as_json) as bar:
        found = fetch(model, progress=bar)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        licence = f", licence: {found.licence}" if found.licence else ""
        print(f"{found.reference}: {size(found.total_bytes)}{licence}")
