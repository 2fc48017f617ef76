"""A LoRA adapter in peft's layout as the GGUF adapter that llama.cpp applies to the same base model. numpy only.

llama.cpp computes W x + scale · B A x with scale = weight · alpha / rank, or the weight alone where alpha is 0. peft's
scale may differ from module to module (rank_pattern, alpha_pattern, rsLoRA), so it is multiplied into B and alpha is 0.
A GGUF file permutes LLaMA's q and k rows (interleaved pairs for its rotary embedding), so B is permuted as well.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, Unsupported
from ninestory.core.paths import Home, sync_directory
from ninestory.models.gguf_reader import GgufFile, read_gguf
from ninestory.models.merge.adapter import module_scale
from ninestory.models.safetensors_reader import SafetensorsFile, read_header, read_tensor

_PERMUTED = {"llama"}  # GGUF architectures whose q and k are interleaved; the others keep the checkpoint's order
_PLAIN = {"qwen2", "qwen3"}
_BLOCK_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_LAYER = re.compile(r"(?:.*\.)?layers\.(?P<layer>\d+)\.(?P<part>[a-z_.]+)")
# Options of peft that change what an adapter computes beyond B A x; where set, the converted one would be wrong.
_BEYOND = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "fan_in_fan_out", "layer_replication",
    "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "velora_config", "monteclora_config",
    "arrow_config",
)  # fmt: skip


@dataclass(frozen=True)
class _Pair:
    a: Any  # (rank, in) float32
    b: Any  # (out, rank) float32, scaled


def adapter_gguf(adapter: Path, base: GgufFile, home: Home) -> Path:
    """Convert a peft folder to a GGUF adapter for `base`, cached in the home. A `.gguf` file is returned unchanged.

    Raises:
        Unsupported: not a LoRA, an option beyond plain LoRA, or a base of another architecture; by name.
        Damaged: files missing or unsound, or shapes that are not the base's.
    """
    if adapter.suffix == ".gguf":
        if read_gguf(adapter).metadata.get("general.type") != "adapter":
            raise _damaged(adapter, "it is a model, not an adapter")
        return adapter
    config_path, weights_path = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    if not weights_path.is_file():
        raise Unsupported(
            f"{adapter.name} has no adapter_model.safetensors.",
            hint="Save the adapter in safetensors form (peft: save_pretrained(…, safe_serialization=True)).",
            hint_zh="请以 safetensors 格式保存适配器（peft：save_pretrained(…, safe_serialization=True)）。",
        )
    digest = hashlib.sha256(f"{base.architecture} {_heads(base)} {base.path.stat().st_size}".encode())
    for path in (config_path, weights_path):
        digest.update(path.read_bytes())
    target = home.cache / "adapters" / f"{digest.hexdigest()[:32]}.gguf"
    if not target.is_file():
        pairs = read_pairs(config_path, read_header(weights_path), base)
        _write(pairs, base.architecture, target)
    return target


def read_pairs(config_path: Path, weights: SafetensorsFile, base: GgufFile) -> dict[str, _Pair]:
    """Read the adapter: GGUF tensor name → A and the scaled, permuted B."""
    import numpy as np

    config = _config(config_path)
    if base.architecture not in _PERMUTED | _PLAIN:
        raise Unsupported(
            f"Adapters for the architecture {base.architecture!r} cannot be converted for llama.cpp.",
            hint="Load the model in safetensors form (the torch runtime).",
            hint_zh="请以 safetensors 格式加载模型（torch 运行时）。",
            param="model",
        )
    modules: dict[str, dict[str, Any]] = {}
    for key in weights.tensors:
        matched = _KEY.fullmatch(key)
        if matched is None:
            raise Unsupported(f"The adapter has {key!r}, which is not a plain LoRA matrix.", param="model")
        modules.setdefault(matched["module"], {})[matched["side"]] = _float32(weights, key)
    pairs: dict[str, _Pair] = {}
    for module, sides in modules.items():
        name = _gguf_name(module)
        if set(sides) != {"A", "B"} or name not in base.tensors:
            raise _damaged(weights.path, f"{module} lacks A or B, or is not in the base model")
        a, b = sides["A"], sides["B"]
        out, inner = base.tensors[name].shape
        if a.shape[1] != inner or b.shape[0] != out or a.shape[0] != b.shape[1]:
            raise _damaged(weights.path, f"{module} has A {a.shape} and B {b.shape} for a matrix of {(out, inner)}")
        b = b * np.float32(module_scale(config, module, a.shape[0]))
        if base.architecture in _PERMUTED and name.endswith(("attn_q.weight", "attn_k.weight")):
            b = _interleaved(b, _heads(base)[name.endswith("attn_k.weight")])
        pairs[name] = _Pair(a, b)
    return pairs


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, bias = config["peft_type"], config.get("bias", "none")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"it cannot be read ({error!r})") from error
    beyond = [option for option in _BEYOND if config.get(option)] + ([f"bias={bias}"] if bias != "none" else [])
    if kind != "LORA" or beyond:
        raise Unsupported(
            f"llama.cpp applies plain LoRA only; this adapter is {kind}{' with ' + ', '.join(beyond) if beyond else ''}.",
            hint="Merge it into the model (ninestory merge), or use the torch runtime.",
            hint_zh="请将其合并到模型中（ninestory merge），或使用 torch 运行时。",
            param="model",
        )
    return dict(config)


def _gguf_name(module: str) -> str:
    if module.rpartition(".")[2] == "lm_head":
        return "output.weight"
    matched = _LAYER.fullmatch(module)
    if matched is None or matched["part"] not in _BLOCK_PARTS:
        raise Unsupported(f"The adapter targets {module!r}, to which llama.cpp cannot apply LoRA.", param="model")
    return f"blk.{matched['layer']}.{_BLOCK_PARTS[matched['part']]}.weight"


def _interleaved(b: Any, heads: int) -> Any:
    """(out, rank) with each head's two halves of rows interleaved, as the base's q and k are in the GGUF file."""
    out, rank = b.shape
    return b.reshape(heads, 2, out // heads // 2, rank).swapaxes(1, 2).reshape(out, rank)


def _heads(base: GgufFile) -> tuple[int, int]:
    """(query heads, key heads)."""
    query = int(base.field("attention.head_count", 1))
    return query, int(base.field("attention.head_count_kv", query))


def _float32(weights: SafetensorsFile, key: str) -> Any:
    import numpy as np

    raw = read_tensor(weights, key)
    kind = weights.tensors[key].dtype
    if kind == "BF16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    if kind not in ("F32", "F16") or raw.ndim != 2:
        raise _damaged(weights.path, f"{key} is {kind} of shape {raw.shape}")
    return raw.astype(np.float32)


def _write(pairs: dict[str, _Pair], architecture: str, target: Path) -> None:
    import gguf
    import numpy as np

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
    for name, pair in pairs.items():
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(pair.a))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(pair.b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(target)
    sync_directory(target.parent)


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(
        f"The adapter file {path.name} is damaged: {why}.",
        hint="Check that it belongs to this base model, then save or download it again.",
        hint_zh="它是该基础模型的适配器吗？请重新保存或下载。",
        code="damaged_adapter",
    )
