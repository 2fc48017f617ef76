"""Adapters put into a loaded model's weights before it runs: LoRA in peft's layout, and our own two kinds.

Merged weights cost nothing a token and keep the promise of equal bits; so the weights of adapters are settled at
load, by the reference (`BASE+ADAPTER=WEIGHT`). Packed weights stay as they are: LoRA's factors are put beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ninestory.architectures.gptq_linear import GPTQLinear, LLMTuneLinear
from ninestory.architectures.nf4_linear import NF4Linear
from ninestory.architectures.quantized_linear import RowQuantizedLinear
from ninestory.core.errors import Damaged, Unsupported
from ninestory.core.json_file import read_json
from ninestory.models.convert.checkpoint import widen
from ninestory.models.merge.adapter import open_adapter
from ninestory.models.resolved import ResolvedAdapter

PACKED_LINEARS = (NF4Linear, GPTQLinear, LLMTuneLinear, RowQuantizedLinear)
# What `ninestory tune` writes for methods that peft has not: whole blocks, and ChatGLM's prefix encoder.
_BLOCKS, _CHATGLM_PREFIX = "NINESTORY_FREEZE", "NINESTORY_CHATGLM_PREFIX"


class BesidePacked(nn.Module):
    """A packed linear with LoRA's two factors beside it: packing the sum again would undo the training."""

    def __init__(self, linear: nn.Module, a: torch.Tensor, b: torch.Tensor) -> None:
        super().__init__()
        self.linear = linear
        device = next(linear.parameters()).device
        self.register_buffer("a", a.to(device), persistent=False)  # [r, in]
        self.register_buffer("b", b.to(device), persistent=False)  # [out, r]

    @classmethod
    def of(cls, linear: Any, a: torch.Tensor, b: torch.Tensor, adapter: ResolvedAdapter) -> BesidePacked:
        """Raises Damaged: the factors are not of this linear's shape."""
        inner = linear
        while isinstance(inner, BesidePacked):  # several adapters stand one around the other
            inner = inner.linear
        if (inner.out_features, inner.in_features) != (b.shape[0], a.shape[1]):
            raise _foreign(adapter, f"factors of a {b.shape[0]} × {a.shape[1]} weight")
        return cls(linear, a, b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.get_buffer("a").to(x.dtype), self.get_buffer("b").to(x.dtype)
        return self.linear(x) + (x @ a.T) @ b.T


@torch.no_grad()
def apply_adapters(model: Any, adapters: Sequence[ResolvedAdapter]) -> None:
    """Change the model's weights by each adapter in turn.

    Raises:
        Unsupported: a kind of adapter, or a weight, that cannot be merged; a packed weight that is to be replaced.
        Damaged: tensors that do not belong to this base.
    """
    for adapter in adapters:
        settings = read_json(adapter.path / "adapter_config.json")
        kind = str(settings.get("peft_type", "none"))
        if kind == "LORA":
            _merge_lora(model, adapter)
        elif kind in (_BLOCKS, _CHATGLM_PREFIX):
            if kind == _CHATGLM_PREFIX:
                _make_prefix_encoder(model, adapter, settings)
            _replace(model, adapter)
        else:
            raise Unsupported(
                f"{adapter.name} is an adapter of the kind {kind}; this runtime merges LoRA and our own kinds.",
                hint="Merge it into its base first: ninestory tune export.",
                hint_zh="请先合并到基座：ninestory tune export。",
                param="adapter",
            )


def _merge_lora(model: Any, adapter: ResolvedAdapter) -> None:
    """W += weight · scale · B A, and whole tensors in the place of the base's (an extended embedding)."""
    lora = open_adapter(adapter.path)
    for name in lora.pairs:
        pair = lora.update(name)
        assert pair is not None
        a, b = (torch.from_numpy(side) for side in pair)  # float32 [r, in], [out, r]
        module_name = name.removesuffix(".weight")
        if isinstance(linear := _module(model, module_name, adapter), (*PACKED_LINEARS, BesidePacked)):
            parent, _, leaf = module_name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, BesidePacked.of(linear, a, adapter.weight * b, adapter))
            continue
        weight = _weight(model, name, (b.shape[0], a.shape[1]), adapter)
        weight += (adapter.weight * (b @ a)).to(weight.dtype).to(weight.device)
    for name, tensor in lora.full.items():
        weight = _weight(model, name, tensor.shape, adapter)
        values = torch.from_numpy(widen(tensor.view(), tensor.dtype, tensor.name)).to(weight.device)
        weight += (adapter.weight * (values - weight.float())).to(weight.dtype)


def _replace(model: Any, adapter: ResolvedAdapter) -> None:
    from safetensors.torch import load_file

    if adapter.weight != 1:
        raise Unsupported(
            f"{adapter.name} replaces weights; it cannot be taken {adapter.weight:g} times.",
            hint="Leave the weight out.",
            hint_zh="请去掉权重。",
            param="adapter",
        )
    for name, values in load_file(adapter.path / "adapter_model.safetensors").items():
        _weight(model, name, tuple(values.shape), adapter).copy_(values)


def _make_prefix_encoder(model: Any, adapter: ResolvedAdapter, settings: dict[str, Any]) -> None:
    """Room for P-Tuning v2's prefix: the base was built without."""
    from ninestory.architectures.chatglm import ChatGLMForConditionalGeneration, PrefixEncoder

    if not isinstance(model, ChatGLMForConditionalGeneration):
        raise _foreign(adapter, "a prefix of ChatGLM")
    model.config.pre_seq_len = int(settings["pre_seq_len"])
    model.config.prefix_projection = bool(settings["prefix_projection"])
    model.transformer.prefix_encoder = PrefixEncoder(model.config).eval()
    model.transformer.dropout = nn.Dropout(0.1).eval()


def _weight(model: Any, name: str, shape: tuple[int, ...], adapter: ResolvedAdapter) -> torch.Tensor:
    """The base's own tensor of this name and shape, to be changed in place."""
    module_name, _, leaf = name.rpartition(".")
    module = _module(model, module_name, adapter)
    weight = getattr(module, leaf, None)
    if isinstance(module, (*PACKED_LINEARS, BesidePacked)):
        raise Unsupported(
            f"{adapter.name} changes {name}, whose weights are packed.",
            hint="Load the base in half precision, or merge the adapter first.",
            hint_zh="请使用半精度基座，或先合并适配器。",
            param="adapter",
        )
    if not isinstance(weight, torch.Tensor) or tuple(weight.shape) != tuple(shape):
        raise _foreign(adapter, name)
    return weight


def _module(model: Any, name: str, adapter: ResolvedAdapter) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise _foreign(adapter, name) from None


def _foreign(adapter: ResolvedAdapter, what: str) -> Damaged:
    return Damaged(
        f"The adapter {adapter.name} holds {what}, for which this base has no place.",
        hint="Take the base that it was trained on.",
        hint_zh="请使用训练该适配器时的基座。",
        param="adapter",
        code="adapter_for_another_base",
    )
