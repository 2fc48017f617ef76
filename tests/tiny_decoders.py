"""Tiny causal models of random weights, one a family, for tests of the torch runtime."""

from __future__ import annotations

from typing import Any

VOCABULARY = 320


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        )
    )  # fmt: skip


_BUILDERS = {"llama": _llama}
FAMILIES = list(_BUILDERS)


def build(family: str, seed: int = 0) -> Any:
    """The family's model, with weights that spread the logits; the same for the same seed."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    model = _BUILDERS[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
            elif "norm" not in name and "ln_" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.tie_weights()
    return model.eval()
