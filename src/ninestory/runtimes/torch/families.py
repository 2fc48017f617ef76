"""What each family's published checkpoints hold beside the weights, and which class runs them. Data, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ninestory.core.errors import Unsupported


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    Attributes:
        config, model: "module:Class".
        renamed: keys of old config.json files → today's.
        defaults: what today's class must be told because the old files leave it unsaid.
        surplus: pattern of a stored tensor that the model does not need → why.
    """

    config: str
    model: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    surplus: Mapping[str, str] = field(default_factory=dict)


_FREQUENCIES = {r"\.inv_freq$": "rotary frequencies, computed from the config"}
_MASKS = {r"\.attn\.(bias|masked_bias|causal_mask)$": "causal mask, computed"}
_OLD_FALCON = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_head_kv": "num_kv_heads"}

FAMILIES: dict[str, Family] = {
    "llama": Family("transformers:LlamaConfig", "transformers:LlamaForCausalLM", surplus=_FREQUENCIES),
    "bloom": Family("transformers:BloomConfig", "transformers:BloomForCausalLM"),
    "falcon": Family(
        "transformers:FalconConfig", "transformers:FalconForCausalLM", renamed=_OLD_FALCON, surplus=_FREQUENCIES
    ),
    # The first releases of Falcon: 7B under one name, 40B (grouped keys, two norms) under another.
    "RefinedWebModel": Family(
        "transformers:FalconConfig", "transformers:FalconForCausalLM", renamed=_OLD_FALCON, surplus=_FREQUENCIES
    ),
    "RefinedWeb": Family(
        "transformers:FalconConfig",
        "transformers:FalconForCausalLM",
        renamed=_OLD_FALCON,
        defaults={"new_decoder_architecture": True},
        surplus=_FREQUENCIES,
    ),
    "gptj": Family("transformers:GPTJConfig", "transformers:GPTJForCausalLM", surplus=_MASKS),
    "codegen": Family("transformers:CodeGenConfig", "transformers:CodeGenForCausalLM", surplus=_MASKS),
    "moss": Family(
        "ninestory.architectures.moss:MossConfig", "ninestory.architectures.moss:MossForCausalLM", surplus=_MASKS
    ),
    "chatglm": Family(
        "ninestory.architectures.chatglm:ChatGLMConfig",
        "ninestory.architectures.chatglm:ChatGLMForConditionalGeneration",
        surplus=_FREQUENCIES,
    ),
}


def find_family(config: Mapping[str, Any], reference: str) -> Family:
    """The family that config.json names by `model_type`; `auto_map` and `architectures` are not asked.

    Raises:
        Unsupported: no such family is built in, or it is a later generation under the same name.
    """
    named = str(config.get("model_type", ""))
    if named == "chatglm" and "multi_query_attention" in config:
        raise Unsupported(
            f"{reference} is a ChatGLM2 or later: another network under the same model_type.",
            hint="Take a GGUF of it: llama.cpp runs these. ChatGLM-6B itself is built in.",
            hint_zh="请使用其 GGUF 文件（llama.cpp 可运行）；本系统内置的是 ChatGLM-6B。",
            param="model",
        )
    if named not in FAMILIES:
        raise Unsupported(
            f"{reference} is of the family {named!r}; built in are {', '.join(FAMILIES)} and RWKV.",
            hint="Take a GGUF of it, where llama.cpp knows the family; remote code is never run.",
            hint_zh="若 llama.cpp 支持该系列，请使用其 GGUF 文件；本系统从不执行远程代码。",
            param="model",
            code="unknown_family",
        )
    return FAMILIES[named]
