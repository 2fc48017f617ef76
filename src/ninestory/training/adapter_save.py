"""Results of a run: an adapter folder, or a whole model after full tuning. Written atomically.

peft's methods are saved in peft's layout. Freeze saves the blocks it trained, ChatGLM's P-Tuning v2 its prefix encoder
under the original keys; both say in adapter_config.json what they are, since peft has no such kind.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, NinestoryError
from ninestory.core.paths import replace_directory
from ninestory.models.convert.safetensors_writer import copy_companions
from ninestory.training.initialisation import relative_to_original
from ninestory.training.methods import AdaptedModel

OWN_KINDS = {"freeze": "NINESTORY_FREEZE", "p_tuning_v2": "NINESTORY_CHATGLM_PREFIX"}


def save_adapter(adapted: AdaptedModel, target: Path, base: str, note: dict[str, Any], base_folder: Path) -> Path:
    """Write the adapter folder `target`; one that is there is replaced.

    Args:
        base: reference of the model it belongs to; `base_folder`: its files. An adapter that holds tables of the
            vocabulary takes their tokenizer along, as Chinese-LLaMA's releases do.
        note: for `ninestory.json`: template, recipe, the base's fingerprint.

    Raises:
        NinestoryError: nothing was trained, so the adapter would be empty.
    """
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if adapted.method.name in OWN_KINDS:
        _save_own(adapted, part, base)
    else:
        _save_peft(adapted, part, base)
    if adapted.method.modules_to_save:
        copy_companions(base_folder, part)
    (part / "ninestory.json").write_text(json.dumps(note, ensure_ascii=False, indent=2), encoding="utf-8")
    _check_not_empty(part / "adapter_model.safetensors")
    replace_directory(part, target)
    return target


def save_model(module: Any, target: Path, base_folder: Path, note: dict[str, Any]) -> Path:
    """Write the whole model in float32 with the base's configuration and tokenizer; one that is there is replaced."""
    from safetensors.torch import save_file

    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    addresses: set[int] = set()
    tensors = {}
    for name, tensor in module.state_dict().items():
        if tensor.data_ptr() not in addresses:  # a tied head is stored once
            addresses.add(tensor.data_ptr())
            tensors[name] = tensor.contiguous()
    save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base_folder / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)  # what was packed has been widened
    (part / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")
    copy_companions(base_folder, part)
    (part / "ninestory.json").write_text(json.dumps(note, ensure_ascii=False, indent=2), encoding="utf-8")
    replace_directory(part, target)
    return target


def load_own(model: Any, folder: Path) -> None:
    """Put an adapter of one of our own kinds onto its base.

    Raises:
        Damaged: its tensors do not belong to this model.
    """
    from safetensors.torch import load_file

    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if settings["peft_type"] == OWN_KINDS["p_tuning_v2"]:
        from torch import nn

        from ninestory.architectures.chatglm import PrefixEncoder

        model.config.pre_seq_len = settings["pre_seq_len"]
        model.config.prefix_projection = settings["prefix_projection"]
        model.transformer.prefix_encoder = PrefixEncoder(model.config)
        model.transformer.dropout = nn.Dropout(0.1)
    tensors = load_file(folder / "adapter_model.safetensors")
    known = model.state_dict()
    wrong = [name for name, t in tensors.items() if name not in known or known[name].shape != t.shape]
    if wrong:
        raise Damaged(
            f"The adapter in {folder.name} holds {wrong[0]}; this base has no such tensor.",
            hint="Take the base that ninestory.json names.",
            hint_zh="请使用 ninestory.json 中记录的基座模型。",
            code="adapter_for_another_base",
        )
    model.load_state_dict(tensors, strict=False)


def _save_peft(adapted: AdaptedModel, folder: Path, base: str) -> None:
    config = adapted.module.peft_config["default"]
    config.base_model_name_or_path = base
    adapted.module.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    if not adapted.initial_factors:
        return
    from safetensors.torch import load_file, save_file

    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors, configuration = relative_to_original(
        load_file(weights), adapted.initial_factors, json.loads(settings.read_text(encoding="utf-8"))
    )
    save_file(tensors, weights, metadata={"format": "pt"})
    settings.write_text(json.dumps(configuration, indent=2), encoding="utf-8")


def _save_own(adapted: AdaptedModel, folder: Path, base: str) -> None:
    from safetensors.torch import save_file

    save_file(
        {name: p.detach().contiguous() for name, p in adapted.trainable.items()}, folder / "adapter_model.safetensors"
    )
    method = adapted.method
    settings: dict[str, Any] = {"peft_type": OWN_KINDS[method.name], "base_model_name_or_path": base}
    if method.name == "p_tuning_v2":
        settings |= {"pre_seq_len": method.virtual_tokens, "prefix_projection": method.projection}
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _check_not_empty(file: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        if not list(opened.keys()):
            raise NinestoryError(
                "The adapter holds no tensor; expected the trained ones.",
                hint="Report this; the checkpoints of the run are whole.",
                hint_zh="请反馈此问题；训练检查点完好。",
                code="empty_adapter",
            )
