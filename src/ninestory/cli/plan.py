"""`ninestory plan`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from ninestory.cli.output import Json, print_json, print_table, size

if TYPE_CHECKING:
    from ninestory.models.plan import DeviceMemory, Plan
    from ninestory.training.plan import TuningJob

app = typer.Typer()


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="Model reference; a catalogue name need not be installed.")],
    context: Annotated[int | None, typer.Option(help="Tokens of one conversation.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests decoded together.")] = None,
    method: Annotated[str, typer.Option(help="Plan tuning by this method; all = every method.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Tuning: tokens in memory at once.")] = 2048,
    rank: Annotated[int, typer.Option(min=1, help="Tuning: rank of the LoRA family.")] = 8,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Tuning: recompute activations.")] = False,
    modules_to_save: Annotated[
        list[str] | None, typer.Option(help="Tuning: a table trained whole beside LoRA (embed_tokens, lm_head).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the memory of a model, or of tuning it, part by part, and say whether it fits on this machine."""
    if method:
        from ninestory.training.plan import TuningJob

        saved = tuple(modules_to_save or ())
        job = TuningJob(method, tokens, max(1, tokens // 2), rank, checkpointing=checkpointing, modules_to_save=saved)
        _plan_tuning(model, job, as_json)
        return
    from ninestory.core.errors import DoesNotFit
    from ninestory.library import plan as predict
    from ninestory.models.plan import largest_that_fits

    plans = predict(model, context=context, concurrency=concurrency)
    best = largest_that_fits(plans)
    if as_json:
        print_json({"plans": [p.as_dict() for p in plans], "largest_that_fits": best.model if best else None})
        return
    print_table(
        ["model", "runtime", "device", "weights", "cache", "activations", "process", "needs", "free", "fits"],
        [
            [
                *((p.model, p.runtime) if device is p.devices[0] else ("", "")),
                device_name(device),
                size(device.weight_bytes),
                size(device.cache_bytes),
                size(device.activation_bytes),
                *_verdict(device),
            ]
            for p in plans
            for device in p.devices
        ],
    )
    first = plans[0]
    for note in first.notes:
        print(note)
    decodes = f"; context {first.context}, {first.slots} at once" if first.context else ""
    print(f"{size(first.available_bytes)} are free{decodes}.")
    if not first.fits:
        hint, hint_zh = _what_fits(model, first, best, context=context, concurrency=concurrency)
        lacking = first.lacking
        place = f" on {device_name(lacking)}" if lacking.name else ""
        raise DoesNotFit(
            f"{first.model} needs about {size(lacking.needed_bytes)}{place} and {size(lacking.free_bytes)} are free.",
            hint=hint,
            hint_zh=hint_zh,
        )


def device_name(device: DeviceMemory) -> str:
    """A device as a person reads it: memory, or a card with its name."""
    return f"{device.device} {device.name}" if device.name else "memory"


def _verdict(device: DeviceMemory) -> list[str]:
    yes = "yes" if device.fits else "no"
    return [size(device.process_bytes), size(device.needed_bytes), size(device.free_bytes), yes]


def _what_fits(
    model: str, first: Plan, best: Plan | None, *, context: int | None, concurrency: int | None
) -> tuple[str, str]:
    """The cure, in English and Chinese: another variant, a quantisation, a shorter context, or a larger machine."""
    from ninestory.core.config import load_settings
    from ninestory.runtimes.plan import quantised_plans

    if best:
        return f"The largest that fits: {best.model}.", f"放得下的最大变体：{best.model}。"
    lacking = first.lacking
    if lacking.weight_bytes + lacking.process_bytes < lacking.free_bytes:
        return "Lower --context or --concurrency.", "请减小 --context 或 --concurrency。"
    for slots in (concurrency, 1):
        settings = load_settings({"runtime.context": context, "runtime.slots": slots}).settings.runtime
        for variant, kind, plan in quantised_plans(model, settings):
            if plan.fits:
                reference = f"{plan.model.partition(':')[0]}:{variant.name}"
                name = variant.name if slots == concurrency else f"{variant.name}, --concurrency 1,"
                convert = f"ninestory convert gguf {reference} {variant.name}-{kind}.gguf --quant {kind}"
                return (
                    f"Its weights alone are {size(first.weight_bytes)}. {name} as a GGUF in {kind} needs about "
                    f"{size(plan.total_bytes)} and fits: ninestory pull {reference}, then {convert}",
                    f"仅权重就有 {size(first.weight_bytes)}。{name} 转为 {kind} 的 GGUF 约需 "
                    f"{size(plan.total_bytes)}，本机可运行：先 ninestory pull {reference}，再 {convert}",
                )
    return (
        f"Its weights alone are {size(first.weight_bytes)}, and no smaller form of it fits: 'ninestory list' has smaller "
        "systems.",
        f"仅权重就有 {size(first.weight_bytes)}，也没有更小的形式可用；ninestory list 中有更小的系统。",
    )


def _plan_tuning(model: str, job: TuningJob, as_json: bool) -> None:
    """One row a method; the methods are those of recipes, and `all`."""
    from ninestory.core.errors import InvalidRequest
    from ninestory.core.paths import Home
    from ninestory.training.method_spec import METHODS
    from ninestory.training.plan import tuning_plans_for

    known = tuple(METHODS)
    if job.method not in (*known, "all"):
        raise InvalidRequest(
            f"There is no tuning method {job.method!r}.",
            hint=f"Take one of: {', '.join(known)}, all.",
            hint_zh=f"可用的方法：{'、'.join(known)}、all。",
            param="--method",
        )
    chosen = known if job.method == "all" else (job.method,)
    plans = tuning_plans_for(model, [dataclasses.replace(job, method=name) for name in chosen], Home.default())
    if as_json:
        print_json([p.as_dict() for p in plans])
        return
    print_table(
        ["method", "trained", "device", "weights", "optimiser", "activations", "process", "needs", "free", "fits"],
        [
            [
                *((p.job.method, f"{p.trainable / 1e6:.1f} M") if device is p.devices[0] else ("", "")),
                device_name(device),
                size(device.weight_bytes),
                size(device.optimizer_bytes),
                size(device.activation_bytes),
                *_verdict(device),
            ]
            for p in plans
            for device in p.devices
        ],
    )
    for note in plans[0].notes:
        print(note)
    print(f"{size(plans[0].available_bytes)} are free; {job.tokens} tokens at once, half of them learned.")
