"""Version and prompt format of an RWKV checkpoint, from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ninestory.core.errors import Unsupported

Shapes = Mapping[str, tuple[int, ...]]
WORLD_ROWS = 65536  # of the embedding: the World vocabulary; pile, Raven and Novel models have 50,277


def detect_version(shapes: Shapes) -> str:
    """ "4", "5.0", "5.1", "5.2", "6" or "7", from the names and shapes of a checkpoint's tensors.

    Raises:
        Unsupported: these are not the names of an RWKV.
    """
    if "emb.weight" not in shapes or "blocks.0.ln1.weight" not in shapes:
        raise Unsupported(
            f"The file has no emb.weight and blocks.0: its first tensor is {next(iter(shapes), 'none')!r}.",
            hint="A single weights file is loaded as RWKV; for other models give the whole directory.",
            hint_zh="单个权重文件按 RWKV 处理；其他模型请指定整个目录。",
            param="model",
        )
    if "blocks.0.att.r_k" in shapes:
        return "7"
    if any("time_maa" in name for name in shapes):
        return "6"
    if not any("ln_x" in name for name in shapes):
        return "4"
    decay = shapes["blocks.0.att.time_decay"]
    if len(decay) > 1 and decay[1] > 1:
        return "5.2"
    return "5.1" if any("gate.weight" in name for name in shapes) else "5.0"


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """name → shape of a `.pth` or safetensors file.

    Raises:
        Damaged: it is neither, is cut short, or asks for code.
    """
    if path.suffix == ".safetensors":
        from ninestory.models.safetensors_reader import read_header

        return {name: info.shape for name, info in read_header(path).tensors.items()}
    from ninestory.models.pickle_reader import read_pickle

    return {name: info.shape for name, info in read_pickle(path).tensors.items()}


def chat_template(rows: int) -> str:
    """Prompt format of the models with this number of embedding rows."""
    return "rwkv-world" if rows == WORLD_ROWS else "rwkv-raven"


def state_bytes(shapes: Shapes) -> int:
    """Bytes of one text's state with activations in float32, whatever the text's length."""
    att = "blocks.0.att."
    layers = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
    width, inner = shapes["emb.weight"][1], shapes[f"{att}key.weight"][0]
    version = detect_version(shapes)
    heads_of = {"7": f"{att}r_k", "6": f"{att}time_faaaa"}.get(version, f"{att}time_decay")
    memory = 3 * inner if version == "4" else inner * inner // shapes[heads_of][0]
    return layers * 4 * (2 * width + memory)
