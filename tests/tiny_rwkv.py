"""Small releases of RWKV in the publisher's form: one `.pth` of random weights, with a real vocabulary's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RANKS = {"6": {"mix": 32, "decay": 64}, "7": {"w": 32, "a": 32, "v": 32, "g": 64}}
VERSIONS = ("4", "5.0", "5.1", "5.2", "6", "7")


def tiny_model(version: str, *, vocabulary: int = 300, width: int = 64, layers: int = 2, seed: int = 0) -> Any:
    """A float32 model in evaluation mode whose logits are about 1."""
    import torch

    from ninestory.architectures.rwkv import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(
        version=version, vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, attention_size=width,
        intermediate_size=4 * width, head_size=0 if version == "4" else 32, ranks=RANKS.get(version),
    )  # fmt: skip
    model = RwkvForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.1 * noise if ".ln" in name and name.endswith("weight") else 0.2 * noise
        parameter.requires_grad_(False)
    return model


def write_release(path: Path, version: str, *, vocabulary: int = 65536, **sizes: int) -> Path:
    """A `.pth` in bfloat16 with the original's keys: low-rank pairs are stored as plain matrices."""
    import torch

    state = tiny_model(version, vocabulary=vocabulary, **sizes).state_dict()
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        stem = name.removesuffix(".weight")
        leaf = stem.rpartition(".att.")[2]
        if leaf.startswith("time_maa_w2."):
            continue
        low_rank = leaf in ("time_maa_w1", "time_decay_w1", "time_decay_w2") or (len(leaf) == 2 and leaf[1] in "12")
        stored[stem if low_rank else name] = (tensor.T if low_rank else tensor).contiguous().bfloat16()
    if version == "6":
        for i in range(len([n for n in state if n.endswith("ln1.weight")])):
            place = f"blocks.{i}.att.time_maa_w2"
            stored[place] = torch.stack([state[f"{place}.{j}.weight"].T for j in range(5)]).bfloat16()
    torch.save(stored, path)
    return path
