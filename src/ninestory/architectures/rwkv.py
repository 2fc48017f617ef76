"""RWKV 4, 5, 6 and 7: recurrent language models with a state of constant size.

One class for all versions; they differ in the time mixing (`rwkv_mixing.py`). The state (`rwkv_state.py`) takes the
place of a key-value cache: pass it as `state`, and it is updated in place. Reading `.pth` files and their
version is `rwkv_checkpoint.py`; splitting a model over devices and dtypes is `rwkv_strategy.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from ninestory.architectures.rwkv_mixing import (
    ChannelMixing,
    TimeMixing,
    TimeMixing4,
    TimeMixing5,
    TimeMixing6,
    TimeMixing7,
)
from ninestory.architectures.rwkv_state import LayerSizes, LayerState, PackedSequences, RwkvState


class RwkvConfig(PreTrainedConfig):
    """Configuration of an RWKV model, derived from a checkpoint's keys and shapes.

    Attributes:
        version: "4", "5.0", "5.1", "5.2", "6" or "7".
        embedding_normed: ln0 is folded into the embedding's table (done once when loading for inference).
        halved_every: halve the residual after this many layers, against overflow in float16; 0 = never.
        ranks: of version 6's and 7's low-rank pairs.
    """

    model_type = "rwkv"

    version: str = "7"
    vocab_size: int = 65536
    hidden_size: int = 768
    num_hidden_layers: int = 12
    attention_size: int = 768
    intermediate_size: int = 3072
    head_size: int = 64
    ranks: dict[str, int] | None = None
    embedding_normed: bool = False
    halved_every: int = 0
    context_length: int = 4096
    use_cache: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | None = 0
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = False

    @property
    def sizes(self) -> LayerSizes:
        heads = 0 if self.version == "4" else self.attention_size // self.head_size
        return LayerSizes(self.version, self.hidden_size, self.attention_size, heads, self.head_size)


@dataclass
class RwkvOutput(ModelOutput):
    """logits: [batch, seq, vocab]; state: the texts' memory after the last token, or None when training."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    state: RwkvState | None = None


def _time_mixing(config: RwkvConfig, layer: int) -> TimeMixing:
    sizes, ranks = config.sizes, config.ranks or {}
    if config.version == "4":
        return TimeMixing4(sizes)
    if config.version == "6":
        return TimeMixing6(sizes, ranks["mix"], ranks["decay"])
    if config.version == "7":
        return TimeMixing7(sizes, ranks, first=layer == 0)
    return TimeMixing5(sizes)


class RwkvBlock(GradientCheckpointingLayer):
    def __init__(self, config: RwkvConfig, layer: int) -> None:
        super().__init__()
        if layer == 0 and not config.embedding_normed:
            self.ln0 = nn.LayerNorm(config.hidden_size)
        self.ln1, self.ln2 = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.att = _time_mixing(config, layer)
        self.ffn = ChannelMixing(config.version, config.hidden_size, config.intermediate_size)

    def forward(self, x: torch.Tensor, rows: PackedSequences, state: LayerState | None, v_first: torch.Tensor | None):
        """x: [T, C] → (x, the first layer's values, which version 7's later layers take)."""
        shared = {"v_first": v_first}
        x = x + self.att(self.ln1(x), rows, state, shared)
        return x + self.ffn(self.ln2(x), rows, state), shared["v_first"]


class RwkvForCausalLM(PreTrainedModel, GenerationMixin):
    """RWKV with its language-model head. Parameters keep the original's names: emb, blocks, ln_out, head."""

    config: RwkvConfig
    config_class = RwkvConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _no_split_modules = ["RwkvBlock"]
    _is_stateful = True

    def __init__(self, config: RwkvConfig) -> None:
        super().__init__(config)
        self.emb = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(RwkvBlock(config, i) for i in range(config.num_hidden_layers))
        self.ln_out = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.start_memory: list[torch.Tensor | None] = [None] * config.num_hidden_layers  # `att.time_state`, if tuned
        self.streams: dict[int, torch.device] = {}  # layers kept on the processor and run elsewhere; head = the last
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.emb

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.emb = value

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.head = value

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a new model; a checkpoint replaces every value."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (TimeMixing, ChannelMixing)):
            for name, parameter in module.named_parameters(recurse=False):
                nn.init.constant_(parameter, -2.0 if name in ("time_decay", "w0") else 0.5)

    def new_state(self, slots: int = 1) -> RwkvState:
        """States before the first token."""
        weights = [block.ln1.weight for block in self.blocks]
        places = [(self.streams.get(i, weight.device), weight.dtype) for i, weight in enumerate(weights)]
        return RwkvState.empty(self.config.sizes, places, slots, self.start_memory)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,  # [batch, seq]
        attention_mask: torch.Tensor | None = None,  # [batch, seq], 0 = padding, at the left only
        state: RwkvState | None = None,  # one slot a batch row; brought up to date in place
        inputs_embeds: torch.Tensor | None = None,  # [batch, seq, C]
        labels: torch.Tensor | None = None,  # [batch, seq], -100 = not scored
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        rows: Sequence[tuple[int, int, int]] | None = None,  # (slot, first place, tokens): packed ids [1, T]
        **_: object,
    ) -> RwkvOutput:
        x = self.emb(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = x.shape[:2]
        tuned = any(memory is not None for memory in self.start_memory)
        if state is None and (use_cache or tuned) and not self.training:
            state = self.new_state(batch)
        if rows is None:
            where = PackedSequences.of_batch(attention_mask, (batch, length), x.device)
        else:
            where = PackedSequences(rows, batch * length, x.device)
        x = self.hidden(x.flatten(0, 1), where, state).unflatten(0, (batch, length))
        logits = self.logits(x[:, -logits_to_keep:] if logits_to_keep else x)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return RwkvOutput(loss=loss, logits=logits, state=state)

    def hidden(self, x: torch.Tensor, rows: PackedSequences, state: RwkvState | None) -> torch.Tensor:
        """Run the blocks and the final norm: embeddings [T, C] → hidden states [T, C]."""
        if state is not None and torch.is_grad_enabled() and x.requires_grad:
            state = state.fork()  # autograd keeps what it saw; a caller's state must not become part of a graph
        if not self.config.embedding_normed:
            x = self.blocks[0].ln0(x)
        v_first = None
        for i, block in enumerate(self.blocks):
            device = self.streams.get(i, block.ln1.weight.device)
            x = x.to(device, block.ln1.weight.dtype)
            here = rows if device == rows.device else rows.to(device)
            x, v_first = self._run(i, block, x, here, state.layers[i] if state else None, v_first)
            if self.config.halved_every and (i + 1) % self.config.halved_every == 0:
                x = x / 2
        last = self.ln_out.weight
        return self._run(
            len(self.blocks), self.ln_out, x.to(self.streams.get(len(self.blocks), last.device), last.dtype)
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., C] → [..., vocab]"""
        return self._run(len(self.blocks), self.head, hidden)

    def _run(self, layer: int, module: nn.Module, *inputs: Any) -> Any:
        """Call a module; move a streamed module's weights to its device for this call only."""
        if layer not in self.streams:
            return module(*inputs)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        moved = {name: tensor.to(self.streams[layer], non_blocking=True) for name, tensor in tensors.items()}
        return torch.func.functional_call(module, moved, inputs)

    # --- generate ---------------------------------------------------------------------------------------------------

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        state: RwkvState | None = None,
        attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **_: object,
    ) -> dict[str, Any]:
        """The whole prompt at first, then the newest token with the state."""
        if state is not None:
            input_ids, attention_mask = input_ids[:, -1:], None
        return {"input_ids": input_ids, "attention_mask": attention_mask, "state": state, "use_cache": use_cache,
                "logits_to_keep": 1}  # fmt: skip

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        model_kwargs["state"] = outputs.state
        return model_kwargs

    def _validate_generation_mode(self, generation_mode: Any, generation_config: Any, *rest: Any) -> None:
        if generation_config.num_beams > 1:
            raise ValueError(f"num_beams is {generation_config.num_beams}; expected 1 (states cannot follow beams)")
        super()._validate_generation_mode(generation_mode, generation_config, *rest)

    def _prepare_cache_for_generation(self, *_: Any, **__: Any) -> None:
        """No key-value cache: `state` is made by the first forward."""
