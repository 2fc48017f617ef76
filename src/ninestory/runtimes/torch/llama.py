"""The LLaMA family over packed tokens, written out: transformers' modules hold the weights, their forward is not used.

Its Python costs a model of 60 million weights a tenth of the products themselves. Query, key and value are one product
here, gate and up another, and the rotations stand in a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ninestory.runtimes.torch.device_map import layer_devices
from ninestory.runtimes.torch.kv_store import KVStore
from ninestory.runtimes.torch.step import Row, Step, positions


def fuse_linears(model: Any) -> None:
    """One linear in the place of those that take the same input; before they are packed. Packed ones are left."""
    for layer in model.model.layers:
        _fuse(layer.self_attn, "qkv_proj", ("q_proj", "k_proj", "v_proj"))
        _fuse(layer.mlp, "gate_up_proj", ("gate_proj", "up_proj"))


def _fuse(parent: nn.Module, name: str, parts: Sequence[str]) -> None:
    linears = [getattr(parent, part) for part in parts]
    if not all(type(linear) is nn.Linear for linear in linears):
        return
    weight = torch.cat([linear.weight for linear in linears])
    fused = nn.Linear(weight.shape[1], weight.shape[0], bias=linears[0].bias is not None, device="meta")
    fused.weight = nn.Parameter(weight, requires_grad=False)
    if linears[0].bias is not None:
        fused.bias = nn.Parameter(torch.cat([linear.bias for linear in linears]), requires_grad=False)
    for part in parts:
        delattr(parent, part)
    setattr(parent, name, fused)


class LlamaDecoder:
    """`decoder.Decoder` over a LlamaForCausalLM, its linears fused or not."""

    chunked = True

    def __init__(self, model: Any, *, slots: int, context: int) -> None:
        config = model.config
        self.device = model.device
        self._base, self._head = model.model, model.lm_head
        self._activation = self._base.layers[0].mlp.act_fn
        self.vocabulary = self._head.out_features
        self._head_dim = self._base.layers[0].self_attn.head_dim
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._devices = layer_devices(self._base, config.num_hidden_layers)
        self._eps = config.rms_norm_eps
        # A frequency that follows the length (dynamic scaling) is taken at the whole context: a slot may grow to it.
        places = torch.arange(context, device=self.device)[None]
        cos, sin = self._base.rotary_emb(torch.empty(0, dtype=model.dtype, device=self.device), places)
        half = self._head_dim // 2
        cos, sin = cos.to(self.device), sin.to(self.device)
        self._cos, self._sin = cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)  # [context, head_dim]
        self.store = KVStore(
            devices=self._devices,
            slots=slots,
            kv_heads=self._kv_heads,
            length=context,
            head_dim=self._head_dim,
            dtype=model.dtype,
        )

    def forward(self, ids: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        step = Step(rows, self.store, self.device)
        places = positions(rows, self.device)
        rotation = self._cos[places][:, None], self._sin[places][:, None]  # each [T, 1, head_dim]
        x = self._base.embed_tokens(ids)  # [T, hidden]
        for i, layer in enumerate(self._base.layers):
            if x.device != self._devices[i]:  # the next card
                x = x.to(self._devices[i])
                rotation = rotation[0].to(x.device), rotation[1].to(x.device)
            x = x + self._attention(i, layer.self_attn, self._norm(layer.input_layernorm, x), rotation, step)
            x = x + self._mlp(layer.mlp, self._norm(layer.post_attention_layernorm, x))
        return self._norm(self._base.norm, x.to(self._base.norm.weight.device))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._head(hidden).float().to(self.device)

    def _norm(self, norm: Any, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), norm.weight, self._eps)

    def _attention(
        self, index: int, attention: Any, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], step: Step
    ) -> torch.Tensor:
        rotated = self._heads + self._kv_heads
        if hasattr(attention, "qkv_proj"):
            qkv = attention.qkv_proj(x)
        else:
            qkv = torch.cat((attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)), dim=-1)
        qkv = qkv.view(x.shape[0], -1, self._head_dim)  # [T, heads + 2 · kv_heads, head_dim]
        qk = _rotate(qkv[:, :rotated], *rotation)
        return attention.o_proj(step.attend(index, qk[:, : self._heads], qk[:, self._heads :], qkv[:, rotated:]))

    def _mlp(self, mlp: Any, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(mlp, "gate_up_proj"):
            return mlp.down_proj(self._activation(mlp.gate_proj(x)) * mlp.up_proj(x))
        gate, up = mlp.gate_up_proj(x).chunk(2, dim=-1)
        return mlp.down_proj(self._activation(gate) * up)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [T, heads, head_dim], whose halves are turned together; the first half of `sin` has its sign changed."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)
