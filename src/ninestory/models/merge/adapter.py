"""A LoRA adapter in peft's layout, read for merging: its configuration, its scales and its tensors.

Keys are `base_model.model.<name>` with `.lora_A.weight` [r, in], `.lora_B.weight` [out, r], or a full tensor that
replaces the base's (peft's `modules_to_save`: Chinese-LLaMA's embedding and head).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, Unsupported
from ninestory.core.json_file import read_json
from ninestory.models.convert.checkpoint import Checkpoint, Tensor, open_checkpoint, widen

_PREFIX = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
# Options of peft that change what an adapter computes beyond B A x: a plain merge would be wrong.
_BEYOND = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "velora_config", "monteclora_config", "arrow_config",
)  # fmt: skip


@dataclass(frozen=True)
class LoraAdapter:
    path: Path
    config: dict[str, Any]
    files: Checkpoint
    pairs: dict[str, tuple[Tensor, Tensor]]  # base tensor → (A, B)
    full: dict[str, Tensor]  # base tensor → its replacement

    def update(self, name: str) -> tuple[Any, Any] | None:
        """float32 (A [r, in], scale · B [out, r]) of a base tensor, or None; fan_in_fan_out swaps A and B."""
        import numpy as np

        if name not in self.pairs:
            return None
        a, b = (widen(t.view(), t.dtype, t.name) for t in self.pairs[name])
        b = b * np.float32(module_scale(self.config, name.removesuffix(".weight"), a.shape[0]))
        return (b.T, a.T) if self.config.get("fan_in_fan_out") else (a, b)


def open_adapter(path: Path) -> LoraAdapter:
    """Read a peft folder.

    Raises:
        Unsupported: not a LoRA, or an option that a plain merge cannot express; by name.
        Damaged: files missing, A without B, or the embedding that the configuration promises is not there.
    """
    config = read_json(path / "adapter_config.json")
    weights = next((p for n in ("safetensors", "bin") if (p := path / f"adapter_model.{n}").is_file()), None)
    if not config or weights is None:
        raise _unsound(path, f"it has no {'adapter_model file' if config else 'adapter_config.json'}")
    bias = config.get("bias", "none")
    beyond = [option for option in _BEYOND if config.get(option)] + ([f"bias={bias}"] if bias != "none" else [])
    if config.get("peft_type") != "LORA" or beyond:
        raise Unsupported(
            f"Only plain LoRA can be merged; {path.name} is {config.get('peft_type')}"
            f"{' with ' + ', '.join(beyond) if beyond else ''}.",
            hint="Load it beside its base model instead: BASE+ADAPTER.",
            hint_zh="请与基座一起加载：BASE+ADAPTER。",
            param="adapter",
        )
    files = open_checkpoint(weights)
    if not files.tensors:
        raise _unsound(path, "its weights are empty: the training saved nothing")
    sides: dict[str, dict[str, Tensor]] = {}
    full: dict[str, Tensor] = {}
    for key, tensor in files.tensors.items():
        name = key.removeprefix(_PREFIX)
        if matched := _LORA.fullmatch(name):
            sides.setdefault(f"{matched['module']}.weight", {})[matched["side"]] = tensor
        elif "lora_" in name:
            raise Unsupported(f"{path.name} has {key!r}, which is not a plain LoRA matrix.", param="adapter")
        elif ".original_module." not in name:
            full[name.replace(".modules_to_save.default.", ".")] = tensor
    if alone := [module for module, both in sides.items() if len(both) != 2]:
        raise _unsound(path, f"{alone[0]} lacks A or B")
    if lost := [m for m in config.get("modules_to_save") or [] if not any(f"{m}." in name for name in full)]:
        raise _unsound(path, f"its configuration lists {', '.join(lost)}, but its weights have no such tensor")
    return LoraAdapter(path, config, files, {m: (both["A"], both["B"]) for m, both in sides.items()}, full)


def module_scale(config: dict[str, Any], module: str, rank: int) -> float:
    """peft's scale of one module: alpha / r, or alpha / √r with rsLoRA; the patterns are regular expressions' ends."""
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = value
            break
    return float(alpha) / (sqrt(rank) if config.get("use_rslora") else rank)


def _unsound(path: Path, why: str) -> Damaged:
    return Damaged(
        f"The adapter {path.name} is damaged: {why}.",
        hint="Save or fetch it again; for Chinese-LLaMA the embedding and head must be saved with it.",
        hint_zh="请重新保存或下载；Chinese-LLaMA 的适配器必须同时保存词嵌入与输出层。",
        code="damaged_adapter",
    )
