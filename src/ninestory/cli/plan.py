"""`ninestory plan`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ninestory.cli.output import Json, print_json, print_table, size

app = typer.Typer()


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="Model reference; a catalogue name need not be installed.")],
    context: Annotated[int | None, typer.Option(help="Tokens of one conversation.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests decoded together.")] = None,
    as_json: Json = False,
) -> None:
    """Predict a model's memory, part by part, and say whether it fits on this machine."""
    from ninestory.core.errors import DoesNotFit
    from ninestory.library import plan as predict
    from ninestory.models.plan import largest_that_fits

    plans = predict(model, context=context, concurrency=concurrency)
    best = largest_that_fits(plans)
    if as_json:
        rows = [{**dataclasses.asdict(p), "total_bytes": p.total_bytes, "fits": p.fits} for p in plans]
        print_json({"plans": rows, "largest_that_fits": best.model if best else None})
        return
    print_table(
        ["model", "runtime", "weights", "cache", "activations", "process", "total", "fits"],
        [
            [
                p.model,
                p.runtime,
                size(p.weight_bytes),
                size(p.cache_bytes),
                size(p.activation_bytes),
                size(p.process_bytes),
                size(p.total_bytes),
                "yes" if p.fits else "no",
            ]
            for p in plans
        ],
    )
    first = plans[0]
    print(f"{size(first.available_bytes)} are free; context {first.context}, {first.slots} at once.")
    if not first.fits:
        raise DoesNotFit(
            f"{first.model} needs about {size(first.total_bytes)} and {size(first.available_bytes)} are free.",
            hint=f"The largest that fits: {best.model}."
            if best and best is not first
            else "Lower --context or --concurrency.",
            hint_zh=f"放得下的最大变体：{best.model}。"
            if best and best is not first
            else "请减小 --context 或 --concurrency。",
        )
