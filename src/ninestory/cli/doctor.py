"""`ninestory doctor`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ninestory.cli.app import language
from ninestory.cli.output import Json, print_json

app = typer.Typer()
_MARKS = {"ok": "✓", "note": "·", "problem": "✗"}


@app.command()
def doctor(
    path: Annotated[
        Path | None, typer.Argument(help="A model file or checkpoint folder; this machine when left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine, or a checkpoint against the known pitfalls of its family. Exit code 1 on a problem."""
    from ninestory.library import doctor as diagnose

    findings = diagnose(path)
    if as_json:
        print_json([dataclasses.asdict(f) for f in findings])
    else:
        for finding in findings:
            title, cure = (getattr(text, language()) for text in (finding.title, finding.cure))
            print(f"{_MARKS[finding.level]} {title}" + (f"\n    → {cure}" if cure else ""))
    if any(f.level == "problem" for f in findings):
        raise typer.Exit(1)
