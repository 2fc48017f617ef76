"""`ninestory convert gguf | safetensors | chatglm | nf4 | gptq | decrypt`: from one format to another, offline."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ninestory.cli.output import Json, print_json, size
from ninestory.core.regular_file import read_regular_text

app = typer.Typer(no_args_is_help=True, help="Convert a checkpoint to another format, with tens of MB of memory.")
Model = Annotated[str, typer.Argument(help="Checkpoint folder or file, or a reference to an installed model.")]
Out = Annotated[Path, typer.Argument(help="What to write; it must not exist.")]


@app.command("gguf")
def gguf(
    model: Model,
    out: Annotated[Path, typer.Argument(help="The .gguf file to write; it must not exist.")],
    quant: Annotated[str, typer.Option(help="Q8_0, F16, F32, BF16, Q6_K, Q5_K, Q4_K, IQ4_NL, Q4_0, …")] = "Q8_0",
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer, if it lies elsewhere.")] = None,
    chat_template: Annotated[Path | None, typer.Option(help="Jinja file in place of the checkpoint's own.")] = None,
    check: Annotated[
        bool | None,
        typer.Option("--check/--no-check", help="Compare logits with the checkpoint's; default: if it fits."),
    ] = None,
    as_json: Json = False,
) -> None:
    """One GGUF file for llama.cpp, the fast runtime on a processor."""
    from ninestory.core.paths import Home
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.models.convert.to_gguf import convert_to_gguf
    from ninestory.runtimes.logit_check import checker_for

    source = local_path(model)
    compares, why_not = checker_for(source, check, Home.default())
    with ProgressBar(quiet=as_json) as bar:
        report = convert_to_gguf(
            source,
            out,
            quant.upper(),
            tokenizer=tokenizer,
            chat_template=chat_template.read_text(encoding="utf-8") if chat_template else "",
            check=compares,
            progress=bar,
        )
    if as_json:
        print_json({**dataclasses.asdict(report), "unchecked": why_not})
        return
    types = ", ".join(f"{count} {kind}" for kind, count in report.types.items())
    print(f"{report.path}: {report.architecture}, {size(report.nbytes)} of {size(report.source_bytes)} ({types}).")
    if report.check:
        print(
            f"Checked: logits differ by {report.check.relative:.5f} of their spread (largest {report.check.largest:.4f}), "
            f"the same best token in {report.check.agreement:.0%} of {report.check.tokens} places."
        )
    else:
        print(f"Unchecked: {why_not}.")
    for note in report.notes:
        print(f"  note: {note}")


@app.command("safetensors")
def safetensors(model: Model, out: Out, as_json: Json = False) -> None:
    """Torch's .bin and .pth files as safetensors; nothing in them is run."""
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.models.convert.to_safetensors import convert_to_safetensors

    with ProgressBar(quiet=as_json) as bar:
        made = convert_to_safetensors(local_path(model), out, bar)
    print_json({"path": made}) if as_json else print(f"{made}: written.")


@app.command("chatglm")
def chatglm(
    model: Model,
    out: Out,
    bits: Annotated[int, typer.Option(help="4 or 8.")] = 4,
    as_json: Json = False,
) -> None:
    """ChatGLM-6B's int8 or int4 checkpoint from the float16 one, in the published layout."""
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.models.convert.chatglm import quantize_chatglm

    with ProgressBar(quiet=as_json) as bar:
        made = quantize_chatglm(local_path(model), out, bits, bar)
    print_json({"path": made, "bits": bits}) if as_json else print(f"{made}: written in {bits} bits.")


@app.command("nf4")
def nf4(model: Model, out: Out, as_json: Json = False) -> None:
    """Every linear in 4 bits (NF4), in bitsandbytes' layout: quantise once, then tune from it with little memory."""
    from ninestory.core.extras import require
    from ninestory.core.progress_bar import ProgressBar

    require("torch", "torch", "Quantising to NF4")
    from ninestory.training.nf4_checkpoint import convert_to_nf4

    with ProgressBar(quiet=as_json) as bar:
        made = convert_to_nf4(local_path(model), out, bar)
    print_json({"path": made}) if as_json else print(f"{made}: written in 4 bits.")


@app.command("gptq")
def gptq(
    model: Model,
    out: Out,
    text: Annotated[Path, typer.Option(help="Ordinary text to calibrate on; some 10,000 tokens and more.")],
    bits: Annotated[int, typer.Option(help="4 or 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Inputs that share a scale; -1 = the whole row.")] = -1,
    activation_order: Annotated[bool, typer.Option("--activation-order", help="Large activations first.")] = False,
    as_json: Json = False,
) -> None:
    """Every linear of the blocks in 4 or 8 bits by GPTQ, calibrated on text, in the layout that AutoGPTQ reads."""
    from ninestory.core.extras import require
    from ninestory.core.progress_bar import ProgressBar

    require("torch", "torch", "Calibrating with GPTQ")
    from ninestory.training.gptq import convert_to_gptq

    with ProgressBar(quiet=as_json) as bar:
        errors = convert_to_gptq(
            local_path(model),
            out,
            read_regular_text(text),
            bar,
            bits=bits,
            group_size=group_size,
            activation_order=activation_order,
        )
    made = {"path": out, "bits": bits, "linears": len(errors), "error": sum(errors.values())}
    print_json(made) if as_json else print(f"{out}: {len(errors)} linears in {bits} bits, error {made['error']:.4g}.")


@app.command("decrypt")
def decrypt(
    source: Annotated[Path, typer.Argument(help="An .enc file of BELLE, or the folder of a release.")],
    out: Annotated[Path, typer.Argument(help="Folder for the plain files.")],
    key: Annotated[Path, typer.Option(help="LLaMA's own file, consolidated.00.pth.")],
    as_json: Json = False,
) -> None:
    """BELLE's encrypted release, with LLaMA's file as the key; every file's sha256 is compared."""
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.models.convert.belle import decrypt as decrypt_files

    with ProgressBar(quiet=as_json) as bar:
        made = decrypt_files(source, key, out, bar)
    print_json({"files": made}) if as_json else print(f"{out}: {', '.join(f.name for f in made)}.")


def local_path(model: str) -> Path:
    """The file or folder that a path or model reference names.

    Raises:
        NotFound: nothing there. Unsupported: a remote model.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path
    from ninestory.core.errors import Unsupported
    from ninestory.core.paths import Home
    from ninestory.models.resolve import resolve

    found = resolve(model, Home.default()).path
    if found is None:
        raise Unsupported(f"{model} is a remote model: it has no files here.", param="model")
    return found
