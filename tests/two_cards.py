"""Steps of decoders over two cards that do not exist: `python -m tests.two_cards` prints a line of JSON a family.

Tensors here know their device and hold no numbers, as in torch.compile; what is computed from tensors of two devices
raises. The kind of device has to be registered for the whole process, so this is a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from ninestory.runtimes.torch import step as step_module
from ninestory.runtimes.torch.decoder import decoder_of
from ninestory.runtimes.torch.device_map import DeviceMap
from ninestory.runtimes.torch.open import suit
from ninestory.runtimes.torch.plan import Placement
from ninestory.runtimes.torch.step import Row
from tests.tiny_decoders import FAMILIES, build

FIRST, SECOND = "card:0", "card:1"
STEPS = ([Row(0, 0, 20)], [Row(0, 20, 1), Row(1, 0, 20)], [Row(0, 21, 1), Row(1, 20, 1)])


def spread(model: Any, placement: Placement) -> None:
    """Leave the model as the loader leaves it: parameters on their cards, inputs brought there."""
    device_map = DeviceMap(model, placement)
    for name, parameter in list(model.named_parameters()):  # tied ones once
        parent, _, leaf = name.rpartition(".")
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device_map.device(name))
        setattr(model.get_submodule(parent), leaf, torch.nn.Parameter(empty, requires_grad=False))
    model.tie_weights()
    for name, buffer in list(model.named_buffers()):
        parent, _, leaf = name.rpartition(".")
        model.get_submodule(parent)._buffers[leaf] = torch.empty(buffer.shape, dtype=buffer.dtype)
    device_map.install(model)


def placement_of(model: Any) -> Placement:
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    return Placement(FIRST, (FIRST, SECOND), FIRST if tied else SECOND)


def run(model: Any, chatglm: bool) -> dict[str, Any]:
    decoder = decoder_of(model, slots=3, context=64)
    for rows in STEPS:
        ids = torch.zeros(sum(row.n for row in rows), dtype=torch.int64, device=FIRST)
        if chatglm:  # its positions are read from the ids, and there are no numbers here
            step = step_module.Step(rows, decoder.store, decoder.device, seen=[min(row.end, 20) for row in rows])
            places = torch.zeros((1, 2, len(ids)), dtype=torch.int64, device=FIRST)
            hidden = decoder._base.packed(ids[None], places, step)[0]
        else:
            hidden = decoder.forward(ids, rows)
        logits = decoder.logits(hidden)
        assert logits.shape == (len(ids), decoder.vocabulary)
    decoder.store.restore(0, 1, 0)
    caches = [str(keys.device) for keys in decoder.store._keys]
    return {"logits": str(logits.device), "caches": caches}


def main(families: Sequence[str] = FAMILIES) -> None:
    _setup_privateuseone_for_python_backend("card")
    tensor = torch.tensor
    # Its way to a device is made of C++ alone, which knows no such card.
    torch.tensor = lambda *a, device=None, **named: tensor(*a, **named).to(device)  # type: ignore[assignment]
    for family in families:
        model = build(family)
        placement = placement_of(model)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
            spread(model, placement)
            suit(model, "")
            print(json.dumps({"family": family, **run(model, family.startswith("chatglm"))}), flush=True)


if __name__ == "__main__":
    main()
