"""Tuning methods: put the adapter on a base, freeze the rest.

LoRA and its relatives, IA³, prompt and prefix tuning are peft's. Ours are full tuning, freeze (the last blocks, by
exact module path), and ChatGLM's P-Tuning v2, whose prefix encoder keeps its original keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.core.extras import require
from ninestory.training.initialisation import check_init, initialise_loftq
from ninestory.training.quantized_base import PACKED_LINEARS, with_packed_targets
from ninestory.training.settings import Method


@dataclass
class AdaptedModel:
    """A model prepared for training.

    Attributes:
        module: the model with its adapter. trainable: the parameters that the optimizer holds, by name.
        initial_factors: PiSSA's factors before the first step, by peft's names; the adapter is saved as the difference.
    """

    module: Any
    method: Method
    trainable: dict[str, nn.Parameter] = field(default_factory=dict)
    initial_factors: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def packs(self) -> bool:
        """Whether rows may be packed into one line."""
        return self.method.spec.packs

    def regulariser(self) -> torch.Tensor | None:
        """AdaLoRA's orthogonality penalty (Zhang et al. 2023): mean of ‖PPᵀ − I‖ over its matrices, times 0.5."""
        if self.method.name != "adalora":
            return None
        penalties = []
        for name, weight in self.trainable.items():
            if "lora_A" in name or "lora_B" in name:
                gram = weight @ weight.T if "lora_A" in name else weight.T @ weight
                penalties.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
        return 0.5 * torch.stack(penalties).mean()

    def after_step(self, step: int) -> None:
        """AdaLoRA moves its ranks; to be called after the optimiser's step and before the gradients are dropped."""
        if self.method.name == "adalora":
            self.module.base_model.update_and_allocate(step)

    def buffers(self) -> dict[str, torch.Tensor]:
        """State that the method keeps between steps: AdaLoRA's importance averages."""
        if self.method.name != "adalora":
            return {}
        allocator = self.module.base_model.rankallocator
        kinds = {"ipt": allocator.ipt, "mean": allocator.exp_avg_ipt, "spread": allocator.exp_avg_unc}
        return {f"{kind}.{name}": value for kind, values in kinds.items() for name, value in values.items()}

    def load_buffers(self, tensors: dict[str, torch.Tensor]) -> None:
        """The inverse of `buffers`."""
        if self.method.name != "adalora":
            return
        allocator = self.module.base_model.rankallocator
        kinds = {"ipt": allocator.ipt, "mean": allocator.exp_avg_ipt, "spread": allocator.exp_avg_unc}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            kinds[kind][name] = value.clone()

    @property
    def rank_pattern(self) -> Any:
        """peft's `rank_pattern`, fixed once AdaLoRA has finished allocating ranks; None for other methods."""
        return self.module.peft_config["default"].rank_pattern if self.method.name == "adalora" else None

    @rank_pattern.setter
    def rank_pattern(self, value: Any) -> None:
        if self.method.name == "adalora" and value:
            self.module.peft_config["default"].rank_pattern = value


def adapt_model(
    model: Any,
    method: Method,
    *,
    seed: int,
    total_steps: int,
    original: Callable[[str], torch.Tensor] | None = None,
) -> AdaptedModel:
    """Freeze the base and add what the method trains; new parameters are drawn from `seed`.

    Args:
        original: weights before they were packed, by the linear's path; LoftQ starts from them.

    Raises:
        InvalidRequest: the method's settings do not fit the model. Unsupported: the family lacks the method.
    """
    check_init(method)
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if method.name == "full":
            module = model.requires_grad_(True)
        elif method.name == "freeze":
            module = _freeze(model, method)
        elif method.name == "p_tuning_v2":
            module = _p_tuning(model, method)
        else:
            module = _peft(model, method, total_steps)
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for parameter in trainable.values():
        parameter.data = parameter.data.float()  # small steps vanish in 16 bit
    start = _factors(module) if method.init == "pissa" else {}
    if method.init == "loftq":
        assert original is not None
        initialise_loftq(module, original)
    return AdaptedModel(module, method, trainable, start)


def _factors(module: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    return {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(module).items()}


def blocks_of(model: Any) -> tuple[str, nn.ModuleList]:
    """Path and list of a model's repeated blocks, by the layer count of its configuration.

    Raises:
        Unsupported: no list of that length.
    """
    count = model.config.get_text_config().num_hidden_layers
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return path, module
    raise Unsupported(
        f"{type(model).__name__} has no list of {count} blocks.",
        hint="Take LoRA for this family.",
        hint_zh="该模型家族请使用 LoRA。",
        param="method.name",
    )


def _freeze(model: Any, method: Method) -> Any:
    """Train the last n blocks. By module object: 'layers.2' as a piece of text would also match layers.20."""
    _, blocks = blocks_of(model)
    if not 1 <= method.trainable_layers <= len(blocks):
        raise InvalidRequest(
            f"method.trainable_layers is {method.trainable_layers}, and the model has {len(blocks)} blocks.",
            hint=f"Take 1 to {len(blocks)}.",
            hint_zh=f"请取 1 到 {len(blocks)}。",
            param="method.trainable_layers",
        )
    for block in list(blocks)[-method.trainable_layers :]:
        block.requires_grad_(True)
    return model


def _p_tuning(model: Any, method: Method) -> Any:
    """ChatGLM's own prefix encoder; other families have peft's prefix tuning, which is the same idea."""
    if model.config.model_type != "chatglm":
        raise Unsupported(
            f"P-Tuning v2 with a prefix encoder is ChatGLM's; {model.config.model_type} has prefix tuning.",
            hint="Set method.name to prefix.",
            hint_zh="请将 method.name 设为 prefix。",
            param="method.name",
        )
    from ninestory.architectures.chatglm import PrefixEncoder

    config = model.config
    config.pre_seq_len, config.prefix_projection = method.virtual_tokens, method.projection
    model.transformer.prefix_encoder = PrefixEncoder(config)
    model.transformer.dropout = nn.Dropout(0.1)
    return model


def _peft(model: Any, method: Method, total_steps: int) -> Any:
    peft = require("peft", "train", f"Tuning with {method.name}")
    try:
        return peft.get_peft_model(model, _peft_config(peft, model, method, total_steps))
    except ValueError as error:
        raise InvalidRequest(
            f"peft refuses this method for {model.config.model_type}: {error}",
            hint="Check method.target_modules against the names of the model's linear layers.",
            hint_zh="请核对 method.target_modules 与模型线性层的名称。",
            param="method",
        ) from error


def _peft_config(peft: Any, model: Any, method: Method, total_steps: int) -> Any:
    """The configuration object of the method's kind; `peft` is the library."""
    task = {"task_type": "CAUSAL_LM"}
    kind = method.spec.peft
    if kind == "lora":
        config = peft.LoraConfig(
            r=method.rank,
            lora_alpha=method.alpha,
            lora_dropout=method.dropout,
            target_modules=_target_modules(model, method),
            use_rslora=method.name == "rslora",
            use_dora=method.name == "dora",
            init_lora_weights="pissa" if method.init == "pissa" else True,
            modules_to_save=method.modules_to_save or None,
            ensure_weight_tying=bool(method.modules_to_save and model.config.get_text_config().tie_word_embeddings),
            **task,
        )
        return with_packed_targets(config)
    if kind == "adalora":
        return peft.AdaLoraConfig(
            target_r=method.rank,
            init_r=max(method.rank + 1, int(method.rank * method.spec.rank_factor)),
            lora_alpha=method.alpha,
            lora_dropout=method.dropout,
            target_modules=_target_modules(model, method),
            total_step=total_steps,
            tinit=total_steps // 10,
            tfinal=total_steps // 3,
            deltaT=max(1, total_steps // 100),
            **task,
        )
    if kind == "ia3":
        return peft.IA3Config(**task)
    if kind == "prompt":
        return peft.PromptTuningConfig(num_virtual_tokens=method.virtual_tokens, **task)
    return peft.PrefixTuningConfig(
        num_virtual_tokens=method.virtual_tokens, prefix_projection=method.projection, **task
    )


def _target_modules(model: Any, method: Method) -> list[str]:
    """Names of the linears that get an adapter; "all-linear" is every linear, packed or not, but the head."""
    if isinstance(method.target_modules, list):
        return method.target_modules
    if method.target_modules != "all-linear":
        return [method.target_modules]
    head = model.get_output_embeddings()
    kinds = (nn.Linear, *PACKED_LINEARS)
    return sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, kinds) and m is not head})
