"""`ninestory merge lora | delta | make-delta | vocabulary`: releases that come in pieces, put together."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ninestory.cli.convert import Model, Out, local_path
from ninestory.cli.output import Json, print_json

app = typer.Typer(no_args_is_help=True, help="Merge adapters, weight differences or vocabularies, without torch.")


class Layout(StrEnum):
    hf = "hf"
    consolidated = "consolidated"


class Precision(StrEnum):
    f16 = "f16"
    bf16 = "bf16"
    f32 = "f32"


class DeltaRecipe(StrEnum):
    vicuna = "vicuna"
    alpaca = "alpaca"


Recipe = Annotated[
    DeltaRecipe, typer.Option(help="vicuna: float16, new rows are zeros; alpaca: float32, new rows are the mean.")
]


@app.command("lora")
def lora(
    base: Model,
    out: Out,
    adapter: Annotated[list[str], typer.Option(help="Adapter folder; give several in their order.")],
    layout: Annotated[Layout, typer.Option(help="Hugging Face's folder, or LLaMA's consolidated.NN.pth.")] = Layout.hf,
    shards: Annotated[int, typer.Option(help="Of the consolidated layout: 7B 1, 13B 2, 33B 4, 65B 8.")] = 1,
    dtype: Annotated[Precision, typer.Option(help="Type of the result.")] = Precision.f16,
    as_json: Json = False,
) -> None:
    """Merge one or more LoRA adapters into their base, in order."""
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.models.merge.lora import merge_adapters

    with ProgressBar(quiet=as_json) as bar:
        report = merge_adapters(
            local_path(base),
            [local_path(name) for name in adapter],
            out,
            layout="consolidated" if layout is Layout.consolidated else "hf",
            shards=shards,
            dtype=dtype.value.upper(),
            progress=bar,
        )
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    chain = " + ".join(report.adapters)
    print(f"{report.path}: {report.changed} tensors changed by {chain}; vocabulary {report.vocabulary}.")


@app.command("delta")
def delta(
    base: Model,
    difference: Annotated[str, typer.Argument(help="The published weight difference.")],
    out: Out,
    recipe: Recipe = DeltaRecipe.vicuna,
    expected_sum: Annotated[float | None, typer.Option(help="Published sum of all values, to be compared.")] = None,
    tolerance: Annotated[float, typer.Option(help="Largest difference from --expected-sum.")] = 0.01,
    as_json: Json = False,
) -> None:
    """Add a weight difference (Vicuna, Alpaca) to its LLaMA."""
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.models.merge.delta import RECIPES, apply_delta

    with ProgressBar(quiet=as_json) as bar:
        report = apply_delta(
            local_path(base),
            local_path(difference),
            out,
            RECIPES[recipe.value],
            expected_sum=expected_sum,
            tolerance=tolerance,
            progress=bar,
        )
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    rows = f", {report.added_rows} new row(s)" if report.added_rows else ""
    print(f"{report.path}: {report.tensors} tensors{rows}, sum {report.sum:.4f}.")


@app.command("make-delta")
def make_delta(
    base: Model,
    tuned: Annotated[str, typer.Argument(help="The tuned model.")],
    out: Out,
    recipe: Recipe = DeltaRecipe.vicuna,
    as_json: Json = False,
) -> None:
    """The difference tuned - base, to publish without the base's weights."""
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.models.merge.delta import RECIPES
    from ninestory.models.merge.delta import make_delta as make

    with ProgressBar(quiet=as_json) as bar:
        report = make(local_path(base), local_path(tuned), out, RECIPES[recipe.value], progress=bar)
    print_json(dataclasses.asdict(report)) if as_json else print(f"{report.path}: {report.tensors} tensors.")


@app.command("vocabulary")
def vocabulary(
    base: Annotated[Path, typer.Argument(help="LLaMA's tokenizer.model.")],
    second: Annotated[Path, typer.Argument(help="The SentencePiece model whose pieces are added.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Add the pieces of a second SentencePiece model to LLaMA's vocabulary."""
    from ninestory.models.merge.vocabulary import merge_vocabularies

    report = merge_vocabularies(base, second, out)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    total = report.base + report.added
    print(f"{report.path}: {report.base} + {report.added} = {total} pieces; {report.skipped} were there already.")


@app.command("extend")
def extend(
    base: Annotated[str, typer.Argument(help="The checkpoint whose vocabulary grows: a folder or a reference.")],
    tokenizer: Annotated[Path, typer.Argument(help="A SentencePiece model, or a folder with a tokenizer.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Grow embedding and head to a larger vocabulary; a new token starts as the mean of what it was written with."""
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.models.merge.extend import extend_vocabulary

    with ProgressBar(quiet=as_json) as bar:
        report = extend_vocabulary(local_path(base), tokenizer, out, bar)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print(f"{report.path}: {report.rows} → {report.vocabulary} rows of {', '.join(report.tables)}.")
