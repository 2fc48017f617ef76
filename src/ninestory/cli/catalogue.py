"""`ninestory list`, `show`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ninestory.cli.app import language
from ninestory.cli.output import Json, print_json, print_table, size

app = typer.Typer()


@app.command("list")
def list_(
    floor: Annotated[int | None, typer.Option(min=1, max=9, help="Only this floor.")] = None, as_json: Json = False
) -> None:
    """Every system of the tower, floor by floor."""
    from ninestory.library import list_systems

    systems = list_systems(floor)
    if as_json:
        print_json([dataclasses.asdict(s) for s in systems])
        return
    zh = language() == "zh"
    headers = ["层", "名称", "", "许可证"] if zh else ["floor", "name", "", "licence"]
    print_table(headers, [[s.floor, s.name, s.title.zh if zh else s.title.en, s.licence] for s in systems])


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Catalogue name.")], as_json: Json = False) -> None:
    """One system: what it is, its variants with sizes and hub ids, and what goes wrong."""
    from ninestory.library import show as find
    from ninestory.models.doctor_checkpoint import RUN_BY_LLAMA_CPP

    system = find(name)
    if as_json:
        print_json(dataclasses.asdict(system))
        return
    zh = language() == "zh"
    print(
        f"{system.name} · {system.title.zh if zh else system.title.en}\n{system.description.zh if zh else system.description.en}\n"
    )
    print(
        f"{'许可证' if zh else 'licence'}: {system.licence}   {'模板' if zh else 'template'}: {system.template or '-'}"
    )
    print(f"{'格式' if zh else 'released as'}: {', '.join(system.formats) or '-'}\n")
    if system.variants:
        rows = [
            [v.name, size(v.nbytes) if v.nbytes else "?", v.format, v.quant or "-", v.hf or "-", v.ms or "-"]
            for v in system.variants
        ]
        print_table(["variant", "size", "format", "quant", "hugging face", "modelscope"], rows)
    if system.floor == 1 and system.family in RUN_BY_LLAMA_CPP:
        fast = "On a processor a GGUF is the fast road: ninestory convert gguf DIR FILE"
        print(f"\n{'在 CPU 上，GGUF 更快：ninestory convert gguf 目录 文件' if zh else fast}")
    for pitfall in system.pitfalls:
        print(
            f"\n! {pitfall.problem.zh if zh else pitfall.problem.en}\n  → {pitfall.cure.zh if zh else pitfall.cure.en}"
        )
