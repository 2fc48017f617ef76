"""`ninestory tune new | run | inspect | ls | resume | report | export | self-instruct`: make a model yours."""

from __future__ import annotations

import dataclasses
import enum
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninestory.cli.finetuning.self_instruct import self_instruct
from ninestory.cli.output import Json, duration, print_json, print_table, size

if TYPE_CHECKING:
    from ninestory.floors.finetuning import FineTuningRecipe, Inspection

app = typer.Typer(no_args_is_help=True, help="Make a model yours: new, run, inspect, ls, resume, report, export.")
app.command("self-instruct")(self_instruct)

RecipeFile = Annotated[str, typer.Argument(help="A YAML recipe, or the name of a ready one (`tune new --list`).")]
Model = Annotated[str, typer.Option(help="Model reference.")]
Data = Annotated[list[str] | None, typer.Option(help="Training data: a file or folder; may be repeated.")]
MethodName = Annotated[str, typer.Option(help="lora, qlora, full, freeze, dora, adalora, ia3, prompt, prefix, …")]
Objective = Annotated[str, typer.Option(help="sft (answers) or dpo (the better of two answers).")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any key of the recipe: train.learning_rate=1e-4")]
Name = Annotated[str, typer.Option(help="Name of the run.")]


class ExportFormat(enum.StrEnum):
    """What `tune export` writes."""

    safetensors = "safetensors"
    gguf = "gguf"


@app.command("new")
def new(
    recipe: Annotated[str, typer.Argument(help="A ready recipe to begin with.")] = "",
    model: Model = "",
    method: MethodName = "",
    objective: Objective = "",
    data: Data = None,
    name: Name = "",
    changes: Set = None,
    out: Annotated[str, typer.Option(help="File to write; on the terminal when left out.")] = "",
    show: Annotated[bool, typer.Option("--list", help="List the ready recipes.")] = False,
    as_json: Json = False,
) -> None:
    """Write a recipe with a comment at every field."""
    from ninestory.floors.recipes import ready_recipes
    from ninestory.training.recipe_file import as_yaml

    if show:
        rows = [[key, r.model.name, r.method.name, r.about] for key, r in ready_recipes().items()]
        if as_json:
            print_json([dataclasses.asdict(r) for r in ready_recipes().values()])
        else:
            print_table(["recipe", "model", "method", ""], rows)
        return
    text = as_yaml(_recipe(recipe, model, method, objective, data, name, changes))
    if not out:
        print(text, end="")
        return
    path = Path(out)
    if path.exists():
        from ninestory.core.errors import Conflict

        raise Conflict(f"{out} exists.", hint="Choose another --out.", hint_zh="请更换 --out。", param="out")
    path.write_text(text, encoding="utf-8")
    print(f"{out}: ninestory tune run {out}")


@app.command("run")
def run(
    recipe: RecipeFile = "",
    model: Model = "",
    method: MethodName = "",
    objective: Objective = "",
    data: Data = None,
    name: Name = "",
    changes: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan, steps and rows; train nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start although the plan says that it does not fit.")] = False,
    as_json: Json = False,
) -> None:
    """Tune, then compare base and tuned on held-out rows. The same command again goes on where it stopped."""
    chosen = _recipe(recipe, model, method, objective, data, name, changes)
    if dry_run:
        _show(_inspection(chosen), as_json)
        return
    _tune(chosen, force, as_json)


@app.command("inspect")
def inspect(
    recipe: RecipeFile = "",
    model: Model = "",
    objective: Objective = "",
    data: Data = None,
    changes: Set = None,
    samples: Annotated[int, typer.Option(help="RenderedRow rows to show.")] = 3,
    as_json: Json = False,
) -> None:
    """What would be learned: rendered rows with the masked part dimmed, lengths, cuts, duplicates, steps, memory."""
    chosen = _recipe(recipe, model, "", objective, data, "", changes)
    skipping = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, on_invalid_row="skip"))
    inspection = _inspection(skipping, samples)
    _show(inspection, as_json)
    if inspection.invalid_count and chosen.data.on_invalid_row == "refuse" and not as_json:
        print("A run refuses rows that cannot be used; --set data.on_invalid_row=skip skips them.")


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """The runs of this home."""
    from ninestory.core.paths import Home
    from ninestory.floors.finetuning import list_runs

    runs = list_runs(Home.default())
    if as_json:
        print_json([dataclasses.asdict(r) for r in runs])
        return
    rows = [
        [r.name, r.model, r.method, r.step, "" if r.loss is None else f"{r.loss:.4f}", r.alias or "unfinished"]
        for r in runs
    ]
    print_table(["run", "model", "method", "step", "loss", "ask it as"], rows)


@app.command("resume")
def resume(
    name: Annotated[str, typer.Argument(help="Name of the run.")],
    force: Annotated[bool, typer.Option("--force", help="As in `tune run`.")] = False,
    as_json: Json = False,
) -> None:
    """Go on with a run from its last checkpoint."""
    from ninestory.core.paths import Home
    from ninestory.floors.finetuning import find_run
    from ninestory.floors.recipes import recipe_from_dict

    _tune(recipe_from_dict(find_run(Home.default(), name).recipe()), force, as_json)


@app.command("report")
def report(name: Annotated[str, typer.Argument(help="Name of the run.")], as_json: Json = False) -> None:
    """The report of a finished run, as Markdown; the HTML page lies beside it."""
    from ninestory.core.errors import NotFound
    from ninestory.core.paths import Home
    from ninestory.floors.finetuning import find_run

    folder = find_run(Home.default(), name).path
    file = folder / "report.md"
    if not file.is_file():
        raise NotFound(
            f"The run {name!r} is not finished.",
            hint=f"ninestory tune resume {name}",
            hint_zh=f"请运行：ninestory tune resume {name}",
        )
    text = file.read_text(encoding="utf-8")
    print_json({"html": str(folder / "report.html"), "markdown": text}) if as_json else print(text)


@app.command("export")
def export(
    name: Annotated[str, typer.Argument(help="Name of the run.")],
    out: Annotated[str, typer.Option(help="Folder to write, or the .gguf file.")],
    to: Annotated[ExportFormat, typer.Option(help="safetensors (a folder) or gguf (one file).")] = (
        ExportFormat.safetensors
    ),
    quant: Annotated[str, typer.Option(help="Of a GGUF: Q8_0, F16, F32, Q4_K, …")] = "Q8_0",
    as_json: Json = False,
) -> None:
    """Merge the adapter into its base and write the whole model: safetensors, or one GGUF file for llama.cpp."""
    from ninestory.core.paths import Home
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.floors.finetuning import export_gguf, export_merged

    if to is ExportFormat.gguf:
        with ProgressBar(quiet=as_json) as bar:
            report = export_gguf(name, Path(out), Home.default(), bar, quant=quant.upper())
        if as_json:
            print_json(dataclasses.asdict(report))
            return
        checked = f"; logits differ by {report.check.relative:.5f} of their spread" if report.check else ""
        print(f"{report.path}: {report.architecture}, {size(report.nbytes)}{checked}")
        print(f"ninestory chat {report.path.resolve()}")
        return
    with ProgressBar(quiet=as_json) as bar:
        folder = export_merged(name, Path(out), Home.default(), bar)
    print_json({"folder": str(folder)}) if as_json else print(f"{folder}: ninestory chat {folder.resolve()}")


def _recipe(
    recipe: str,
    model: str,
    method: str,
    objective: str,
    data: list[str] | None,
    name: str,
    changes: list[str] | None,
) -> FineTuningRecipe:
    """The recipe by file or name, with the flags on top."""
    from ninestory.core.errors import InvalidRequest
    from ninestory.floors.finetuning import FineTuningRecipe
    from ninestory.floors.recipes import change_recipe, load_recipe, ready_recipes
    from ninestory.training.recipe_file import parse_yaml

    given = {
        "model.name": model,
        "method.name": method,
        "kind": f"finetuning.{objective}" if objective else "",
        "data.train": data,
        "name": name,
    }
    wanted: dict[str, Any] = {key: value for key, value in given.items() if value}
    for change in changes or []:
        key, mark, value = change.partition("=")
        if not mark:
            raise InvalidRequest(
                f"--set takes KEY=VALUE, and {change!r} has no '='.",
                hint="For example --set train.learning_rate=1e-4.",
                hint_zh="例如 --set train.learning_rate=1e-4。",
                param="--set",
            )
        wanted[key] = parse_yaml(value) if value else ""
    chosen = ready_recipes().get(recipe) or (load_recipe(Path(recipe)) if recipe else FineTuningRecipe())
    changed: FineTuningRecipe = change_recipe(chosen, wanted)
    return changed


def _inspection(recipe: FineTuningRecipe, samples: int = 3) -> Inspection:
    from ninestory.core.paths import Home
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.floors.recipes import find_kind

    with ProgressBar() as bar:
        inspection: Any = find_kind(recipe.kind).inspect(recipe, Home.default().ensure(), bar, samples=samples)
        return inspection


def _tune(recipe: FineTuningRecipe, force: bool, as_json: bool) -> None:
    from ninestory.cli.finetuning.tune_progress import StepBar
    from ninestory.core.paths import Home
    from ninestory.library import tune

    if int(os.environ.get("RANK", "0")):  # torchrun's: not the first process
        from ninestory.floors.finetuning import follow_run as follow

        follow(recipe, Home.default().ensure())
        return
    with StepBar(quiet=as_json) as bar:
        outcome = tune(recipe, force=force, progress=bar)
    if as_json:
        print_json(outcome)
        return
    print(f"{outcome['verdict']}: loss {outcome['base_loss']:.4f} → {outcome['tuned_loss']:.4f} on held-out rows")
    print(f"report: {outcome['report']}")
    print(f"ninestory chat {outcome['reference']}")


def _show(found: Inspection, as_json: bool) -> None:
    if as_json:
        print_json(found.as_dict())
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    for sample in found.samples:
        console.rule(f"{sample.file}, line {sample.line}: {sample.tokens} tokens")
        console.print(Text.assemble(*((text, "bold green" if learned else "dim") for text, learned in sample.pieces)))
        if sample.rejected:
            console.rule("rejected", style="dim")
            console.print(Text.assemble(*((text, "red" if learned else "dim") for text, learned in sample.rejected)))
    console.rule()
    print(f"format {found.format}, template {found.template or 'none'}")
    if len(found.shares) > 1 or found.shares[0].weight != 1:
        for share in found.shares:
            print(f"  {share.name}: {share.rows} rows, weight {share.weight:g}: {share.used} an epoch")
    print(
        f"{found.rows} rows to train on, {found.held_out} held out, {found.invalid_count} cannot be used, "
        f"{found.duplicates} duplicates, {found.cut} cut"
    )
    if found.lost_questions:
        print(f"{found.lost_questions} conversations ended with a question: that turn is left out, the rest is kept")
    if found.lost_greetings:
        print(f"{found.lost_greetings} lost the assistant's greeting, which the model's template has no place for")
    for bad in found.invalid[:20]:
        print(f"  {bad.file}, line {bad.line}: {bad.why}")
    most = max(count for _, _, count in found.histogram)
    for low, high, count in found.histogram:
        print(f"  {low:>6}–{high:<6} {'█' * max(1, round(30 * count / most))} {count}")
    print(f"{found.tokens} tokens, {found.learned_share:.0%} of them learned; {found.steps} steps")
    if found.seconds is not None:
        print(
            f"time: about {duration(found.seconds)} for the steps, by their arithmetic and the speed of one block of "
            "this model timed just now; evaluations come on top"
        )
    if found.plan:
        plan = found.plan
        print(
            f"memory: {size(plan.total_bytes)} (weights {size(plan.weight_bytes)}, activations "
            f"{size(plan.activation_bytes)}, optimiser {size(plan.optimizer_bytes)}, process "
            f"{size(plan.process_bytes)}); {size(plan.available_bytes)} are free: {'fits' if plan.fits else 'TOO LARGE'}"
        )
