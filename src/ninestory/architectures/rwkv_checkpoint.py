"""RWKV checkpoints: a flat `.pth` (or safetensors) whose keys determine the version.

Read without unpickling; each tensor is converted once, to the dtype and device of its layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ninestory.architectures.rwkv import RwkvConfig, RwkvForCausalLM
from ninestory.architectures.rwkv_int8 import RwkvInt8Linear, quantize
from ninestory.architectures.rwkv_strategy import LayerPlan, Strategy, parse_strategy, refuse_missing_devices
from ninestory.core.errors import Damaged, Unsupported
from ninestory.models.rwkv_release import Shapes, detect_version

_LOW_RANK = re.compile(r"\.att\.(time_maa_w1|time_maa_w2|time_decay_w1|time_decay_w2|[wavg][12])$")
_LOW_RANK_MODULE = re.compile(_LOW_RANK.pattern.removesuffix("$") + r"(\.\d)?$")
_FLOAT32 = re.compile(r"\.att\.(time_decay|time_first|time_faaaa|ln_x\.(weight|bias))$")  # in every strategy
_UNUSED = re.compile(r"^blocks\.0\.att\.v[012]$")  # version 7's first layer has no earlier values to take
_CONVERTED = ("_strategy", "_version", "_rescale_layer")


def config_of(shapes: Shapes) -> RwkvConfig:
    """Derive version and sizes from tensor names and shapes.

    Raises:
        Unsupported: not an RWKV checkpoint. Damaged: a tensor that determines a size is missing.
    """
    version = detect_version(shapes)
    att = "blocks.0.att."
    try:
        vocabulary, width = shapes["emb.weight"]
        inner = shapes[f"{att}key.weight"][0]
        heads = {"7": f"{att}r_k", "6": f"{att}time_faaaa"}.get(version, f"{att}time_decay")
        layers = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
        ranks: dict[str, int] | None = None
        if version == "6":
            ranks = {"mix": shapes[f"{att}time_maa_w2"][1], "decay": shapes[f"{att}time_decay_w1"][1]}
        elif version == "7":
            ranks = {name: shapes[f"{att}{name}1"][1] for name in "wag"}
            # a model of one layer has no use for the values' pair
            ranks["v"] = shapes["blocks.1.att.v1"][1] if layers > 1 else 0
        return RwkvConfig(
            version=version,
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            attention_size=inner,
            intermediate_size=shapes["blocks.0.ffn.key.weight"][0],
            head_size=0 if version == "4" else inner // shapes[heads][0],
            ranks=ranks,
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise _damaged(f"{type(error).__name__} {error} when reading the sizes of an RWKV-{version}") from error


class RwkvCheckpoint:
    """An RWKV checkpoint file; tensors are read lazily, by name.

    Raises:
        Damaged: the file is malformed, or its pickle would run code.
        Unsupported: a file converted for one strategy of the original program.
    """

    def __init__(self, path: Path) -> None:
        self.shapes: dict[str, tuple[int, ...]]
        self._read: Callable[[str], torch.Tensor]
        if path.suffix == ".safetensors":
            self.shapes, self._read = _safetensors(path)
        else:
            self.shapes, self._read = _pickle(path)
        self.config = config_of(self.shapes)

    def names(self) -> list[str]:
        """Names of the tensors that the model uses."""
        tuned = ".att.time_state" if self.config.version in ("5.0", "5.1", "5.2", "6") else "\0"
        return [name for name in self.shapes if not _UNUSED.match(name) and not name.endswith(tuned)]

    def read(self, name: str) -> torch.Tensor:
        """A tensor in the file's dtype. It may share the file's pages: copy before writing."""
        return self._read(name)


def load_rwkv(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    strategy: str = "",
    for_training: bool = False,
) -> RwkvForCausalLM:
    """Load an RWKV model from a checkpoint file.

    Args:
        dtype, device: used for the whole model; or `strategy`, which sets both per layer.
        for_training: keep the first layer norm separate from the embedding, so that both are trainable.

    Raises:
        Damaged, Unsupported: see `RwkvCheckpoint`; Damaged too where a tensor is missing, surplus or of another shape.
        InvalidRequest: the strategy is malformed. Unsupported: its device is not available.
    """
    checkpoint = RwkvCheckpoint(path)
    config = checkpoint.config
    config.embedding_normed = not for_training
    blocks = config.num_hidden_layers
    plan = parse_strategy(strategy, blocks) if strategy else Strategy([LayerPlan(device, dtype)] * (blocks + 1))
    refuse_missing_devices(plan)
    config.halved_every = plan.halved_every
    with torch.device("meta"):
        model = RwkvForCausalLM(config)
        _make_room_for_int8(model, plan)
    weights: dict[str, torch.Tensor] = {}
    for name in checkpoint.names():
        layer = _layer_of(name, blocks)
        for key, tensor in _placed(name, checkpoint):
            if config.halved_every and key.endswith(("att.output.weight", "ffn.value.weight")):
                tensor = tensor / 2 ** (layer // config.halved_every)
            weights |= _kept(key, tensor, model, plan.layers[layer])
    if not for_training:
        weights |= _kept("emb.weight", _normed_embedding(checkpoint), model, plan.layers[0])
        weights = {k: v for k, v in weights.items() if not k.startswith("blocks.0.ln0.")}
    _assign(model, weights)
    model.streams = {i: torch.device(p.device) for i, p in enumerate(plan.layers) if p.streamed}
    model.start_memory = _start_memory(checkpoint, plan)
    return model.train(for_training)


def _layer_of(name: str, blocks: int) -> int:
    """Strategy index of a tensor: its block's; the embedding has the first, the head the last."""
    if name.startswith("blocks."):
        return int(name.split(".")[1])
    return 0 if name.startswith("emb.") else blocks


def _make_room_for_int8(model: RwkvForCausalLM, plan: Strategy) -> None:
    """Replace the matrices of 8-bit layers by int8 modules; low-rank pairs are kept."""
    for name, module in list(model.named_modules()):
        layer = plan.layers[_layer_of(name, len(plan.layers) - 1)]
        if isinstance(module, nn.Linear) and layer.int8 and not _LOW_RANK_MODULE.search(name):
            parent, _, child = name.rpartition(".")
            owner = model.get_submodule(parent) if parent else model
            setattr(owner, child, RwkvInt8Linear(module.in_features, module.out_features, layer.dtype))


def _kept(key: str, tensor: torch.Tensor, model: RwkvForCausalLM, plan: LayerPlan) -> dict[str, torch.Tensor]:
    """Copy a tensor to its layer's format: quantised or cast. Streamed layers stay in CPU memory."""
    device = "cpu" if plan.streamed else plan.device
    module = key.rpartition(".")[0]
    if plan.int8 and key.endswith(".weight") and isinstance(_module(model, module), RwkvInt8Linear):
        return {
            f"{module}.{name}": part.to(device, part.dtype if name == "weight" else plan.dtype)
            for name, part in quantize(tensor).items()
        }
    dtype = torch.float32 if _FLOAT32.search(key) and model.config.version != "7" else plan.dtype
    return {key: tensor.to(device=device, dtype=dtype, copy=True).contiguous()}


def _module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:  # a surplus tensor, which `_assign` names
        return None


def _placed(name: str, checkpoint: RwkvCheckpoint) -> list[tuple[str, torch.Tensor]]:
    """Map a tensor of the file to (parameter name, tensor); low-rank pairs are linears in the model."""
    tensor = checkpoint.read(name)
    if not _LOW_RANK.search(name):
        return [(name, tensor)]
    if name.endswith("time_maa_w2"):
        return [(f"{name}.{i}.weight", part.T) for i, part in enumerate(tensor)]
    return [(f"{name}.weight", tensor.T)]


def _normed_embedding(checkpoint: RwkvCheckpoint) -> torch.Tensor:
    """Apply ln0 to the embedding table in the file's dtype, with the original's rounding in bfloat16."""
    table = checkpoint.read("emb.weight")
    weight, bias = checkpoint.read("blocks.0.ln0.weight"), checkpoint.read("blocks.0.ln0.bias")
    return F.layer_norm(table, (table.shape[1],), weight, bias)


def _start_memory(checkpoint: RwkvCheckpoint, plan: Strategy) -> list[torch.Tensor | None]:
    """Tuned initial states per layer, [heads, key, value]; the file stores [heads, value, key]."""
    states: list[torch.Tensor | None] = []
    for i in range(checkpoint.config.num_hidden_layers):
        name = f"blocks.{i}.att.time_state"
        tuned = checkpoint.read(name) if name in checkpoint.shapes else None
        device = plan.layers[i].device
        states.append(None if tuned is None else tuned.to(device, torch.float32).transpose(1, 2).contiguous())
    return states


def _assign(model: RwkvForCausalLM, weights: dict[str, torch.Tensor]) -> None:
    expected = model.state_dict()
    for name in sorted({*expected, *weights}):
        if name not in weights:
            raise _damaged(f"the tensor {name} is missing")
        if name not in expected:
            raise _damaged(f"the tensor {name} is not part of an RWKV-{model.config.version}")
        if weights[name].numel() != expected[name].numel():
            raise _damaged(f"{name} has shape {tuple(weights[name].shape)}; expected {tuple(expected[name].shape)}")
    model.load_state_dict({k: v.reshape(expected[k].shape) for k, v in weights.items()}, assign=True)


def _pickle(path: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], torch.Tensor]]:
    from ninestory.models.pickle_reader import read_pickle, read_tensor

    file = read_pickle(path)
    if converted := [name for name in _CONVERTED if name in file.values]:
        raise Unsupported(
            f"{path.name} was converted by the original program for one strategy ({file.values[converted[0]]}); expected an unconverted file.",
            hint="Use the publisher's original file; ninestory applies a strategy while loading.",
            hint_zh="请使用发布者的原始文件；ninestory 在加载时应用策略。",
            param="model",
        )

    def read(name: str) -> torch.Tensor:
        array: Any = read_tensor(file, name)
        tensor = torch.from_numpy(array.copy())
        return tensor.view(torch.bfloat16) if file.tensors[name].dtype == "BF16" else tensor

    return {name: info.shape for name, info in file.tensors.items()}, read


def _safetensors(path: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, file.get_tensor  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(f"{path.name} is not a safetensors file: {error}") from error


def _damaged(why: str) -> Damaged:
    return Damaged(
        f"The checkpoint is incomplete or damaged: {why}.",
        hint="Download the file again from its publisher.",
        hint_zh="请从发布者处重新获取该文件。",
    )
