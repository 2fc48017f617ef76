"""`ninestory config`."""

from __future__ import annotations

import dataclasses

import typer

from ninestory.cli.output import Json, print_json, print_table

app = typer.Typer()


@app.command()
def config(as_json: Json = False) -> None:
    """Show every setting, its value, and where the value came from."""
    from ninestory.core.config import SECRETS, load_settings

    loaded = load_settings()
    rows = []
    for key, origin in loaded.origins.items():
        group, _, name = key.rpartition(".")
        holder = getattr(loaded.settings, group) if group else loaded.settings
        value = getattr(holder, name)
        doc = next(f.metadata["doc"] for f in dataclasses.fields(holder) if f.name == name)
        rows.append(
            {"key": key, "value": ("(set)" if value else "") if key in SECRETS else value, "origin": origin, "doc": doc}
        )
    if as_json:
        print_json(rows)
    else:
        print_table(
            ["setting", "value", "from", "meaning"], [[r["key"], r["value"], r["origin"], r["doc"]] for r in rows]
        )
