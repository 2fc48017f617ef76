"""A decoder over several cards: which module stands where, and how a token gets from one to the next.

Checked without a card, by tensors that know their device and hold no numbers (tests/unit/test_device_map.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ninestory.runtimes.torch.plan import Placement


class DeviceMap:
    """Devices of the modules of a causal model, by a placement of its blocks.

    What comes before the layers goes with the embedding (its norm), what comes after with the head (the last norm).
    """

    def __init__(self, model: Any, placement: Placement) -> None:
        self._head = placement.head
        self._devices: dict[str, str] = {}  # name of a module → device of all below it
        names = {module: name for name, module in model.named_modules()}
        layers = find_layers(model, len(placement.layers))
        base, _, own = names[layers].rpartition(".")
        after = False
        for child, _ in model.get_submodule(base).named_children():
            if child == own:
                after = True
            else:
                self._devices[f"{base}.{child}" if base else child] = placement.head if after else placement.embedding
        self._devices[names[model.get_input_embeddings()]] = placement.embedding
        self._devices |= {f"{names[layers]}.{i}": card for i, card in enumerate(placement.layers)}
        self._devices[names[model.get_output_embeddings()]] = placement.head

    def device(self, name: str) -> str:
        """Device of the parameter or buffer of this name."""
        parts = name.split(".")
        prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((self._devices[prefix] for prefix in prefixes if prefix in self._devices), self._head)

    def install(self, model: nn.Module) -> None:
        """Let every mapped module bring its inputs to its device; parameters are there already, buffers are moved."""
        for name, device in self._devices.items():
            model.get_submodule(name).register_forward_pre_hook(_bring_to(device), with_kwargs=True)
        for name, buffer in list(model.named_buffers()):
            parent, _, leaf = name.rpartition(".")
            model.get_submodule(parent)._buffers[leaf] = buffer.to(self.device(name))


def find_layers(model: Any, count: int) -> nn.ModuleList:
    """The list of a decoder's layers."""
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)


def layer_devices(model: Any, count: int) -> list[torch.device]:
    """Device of each layer's weights."""
    return [next(layer.parameters()).device for layer in find_layers(model, count)]


def _bring_to(device: str) -> Any:
    def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from accelerate.utils import send_to_device

        return send_to_device(arguments, device), send_to_device(named, device)

    return hook
