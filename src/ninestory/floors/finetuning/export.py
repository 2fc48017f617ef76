"""Export of a tuned model: the adapter merged into the base that it was trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninestory.core.errors import Conflict, Unsupported
from ninestory.core.paths import Home
from ninestory.core.progress import Progress
from ninestory.core.scratch import ScratchFolder
from ninestory.floors.finetuning.base import Base, load_weights, open_base
from ninestory.floors.finetuning.recipe import FineTuningRecipe
from ninestory.floors.finetuning.runs import find_run
from ninestory.floors.recipes import recipe_from_dict
from ninestory.models.prompt_format import CHECKPOINT
from ninestory.models.template_jinja import as_jinja
from ninestory.models.templates import find_template
from ninestory.training.run_folder import RunFolder

if TYPE_CHECKING:
    from ninestory.models.convert.to_gguf import GgufReport


def export_merged(name: str, target: Path, home: Home, progress: Progress) -> Path:
    """Write the merged model of the run `name` to the new folder `target`.

    An adapter of QLoRA goes into the dequantised NF4 base, the one it was trained on: merged into the original weights
    its answers would differ (by up to 0.57 of a logit on the oracle of tests/fixtures/nf4).

    Raises:
        Unsupported: prompts and prefixes stand before the text and cannot be merged into weights.
        Conflict: `target` exists, or the base has changed since.
    """
    folder = find_run(home, name)
    recipe = recipe_from_dict(folder.recipe())
    if recipe.method.spec.prompt_like:
        raise Unsupported(
            f"method.name is {recipe.method.name}, which trains states before the text; nothing of it can be merged.",
            hint=f"Use it as it is: {folder.adapter}.",
            hint_zh=f"请直接使用：{folder.adapter}。",
        )
    if target.exists():
        raise Conflict(f"{target} exists.", hint="Choose another folder.", hint_zh="请更换目录。", param="out")
    from ninestory.training.adapter_save import save_model

    base = open_base(recipe.model.name, recipe.model.template, home, progress)
    note = json.loads((folder.path / "ninestory.json").read_text(encoding="utf-8"))
    _refuse_other_base(note, base.fingerprint, recipe.model.name)
    made = save_model(_merged(recipe, base, folder, home, progress), target, base.folder, note)
    if jinja := _jinja(note):
        (made / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    return made


def export_gguf(name: str, target: Path, home: Home, progress: Progress, *, quant: str = "Q8_0") -> GgufReport:
    """Write the merged model of the run `name` as the GGUF file `target`, its logits compared where memory allows it.

    The prompt format it was tuned in goes into the file, so every llama.cpp program asks it in that one.

    Raises:
        As `export_merged` and `convert_to_gguf`.
    """
    from ninestory.models.convert.to_gguf import convert_to_gguf
    from ninestory.runtimes.logit_check import checker_for

    if target.exists():
        raise Conflict(f"{target} exists.", hint="Choose another name.", hint_zh="请更换名称。", param="out")
    home.cache.mkdir(parents=True, exist_ok=True)
    with ScratchFolder(".export-", home.cache) as room:
        merged = export_merged(name, room / name, home, progress)
        template = merged / "chat_template.jinja"
        return convert_to_gguf(
            merged,
            target,
            quant,
            chat_template=template.read_text(encoding="utf-8") if template.is_file() else "",
            check=checker_for(merged, None, home)[0],
            progress=progress,
        )


def _jinja(note: dict[str, Any]) -> str:
    """The catalogue's prompt format that the run was tuned in; "" where the base's own was used, or none."""
    template = str(note["template"])
    return "" if template in ("", CHECKPOINT) else as_jinja(find_template(template))


def _merged(recipe: FineTuningRecipe, base: Base, folder: RunFolder, home: Home, progress: Progress) -> Any:
    from ninestory.training.adapter_files import load_adapter
    from ninestory.training.adapter_save import load_own
    from ninestory.training.quantized_base import dequantize_model

    if recipe.method.name == "full":
        from ninestory.runtimes.torch.load_model import load_model

        return load_model(replace(base.resolved, path=folder.path / "model"))[0]
    model = load_weights(base, home, progress, packed=recipe.method.spec.quantizes_base)
    dequantize_model(model)  # 4-bit linears become plain ones: only into those is a merge exact
    if recipe.method.name == "freeze":
        load_own(model, folder.adapter)
        return model
    return load_adapter(model, folder.adapter).merge_and_unload()


def _refuse_other_base(note: dict[str, Any], fingerprint: str, reference: str) -> None:
    if note["base_fingerprint"] != fingerprint:
        raise Conflict(
            f"{reference} is not the model that the adapter was trained on: its files have changed since.",
            hint="Bring back the base of that time, or tune again.",
            hint_zh="请恢复当时的基座模型，或重新微调。",
            code="adapter_for_another_base",
        )
