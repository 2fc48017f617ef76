"""`ninestory ps`, `load`, `unload`: the models of a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from ninestory.cli.client import DEFAULT, Server, ServerClient
from ninestory.cli.output import Json, print_json, print_table, size

app = typer.Typer()


@app.command("ps")
def ps(server: Server = DEFAULT, as_json: Json = False) -> None:
    """Models loaded in the running server."""
    rows = ServerClient(server).call("GET", "/ninestory/v1/ps")["data"]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["model", "state", "runtime", "running", "waiting", "memory", "idle"],
        [
            [
                r["model"],
                r["state"],
                r["runtime"],
                r["requests"],
                r["waiting"],
                size(r["rss_bytes"]),
                f"{r['idle_seconds']:.0f} s",
            ]
            for r in rows
        ],
    )


@app.command("load")
def load(
    model: Annotated[str, typer.Argument(help="Model reference.")],
    keep_alive: Annotated[float | None, typer.Option(help="Seconds it stays loaded when idle; -1 for ever.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt template, or 'checkpoint'; else the catalogue's, then the checkpoint's.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="torch: float32, bfloat16, float16, int8, or int4 on a GPU.")
    ] = None,
    fast: Annotated[
        bool | None, typer.Option("--fast", help="torch on a CPU: fastest linears, bits may depend on neighbours.")
    ] = None,
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """Load a model in the running server."""
    given = {"model": model, "keep_alive": keep_alive, "template": template, "dtype": dtype, "fast": fast}
    body = {name: value for name, value in given.items() if value is not None}
    row = ServerClient(server).call("POST", "/ninestory/v1/load", json=body)
    if as_json:
        print_json(row)
        return
    print(f"{row['model']} is {row['state']} ({size(row['rss_bytes'])}).")
    for note in (row.get("info") or {}).get("notes", []):
        print(f"  {note}")


@app.command("unload")
def unload(
    model: Annotated[str, typer.Argument(help="Model reference.")], server: Server = DEFAULT, as_json: Json = False
) -> None:
    """Unload a model from the running server."""
    answer = ServerClient(server).call("POST", "/ninestory/v1/unload", json={"model": model})
    print_json(answer) if as_json else print(f"{model}: " + ("unloaded." if answer["unloaded"] else "was not loaded."))
