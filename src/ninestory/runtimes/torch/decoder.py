"""What the engine drives: a model that takes packed tokens and keeps something a slot.

The seam for every family. A family with attention makes a `Step` of the rows and hands it to its attention; a
recurrent one (RWKV) has no attention: it implements `Decoder` itself, its `store` holds a state a slot instead of keys
and values, and its `forward` walks over `rows`, takes the state of `row.slot` (zeros where `row.start` is 0), runs the
row's `n` tokens and puts the new state back. Its store's `chunk_done` takes a snapshot of the state, `reusable` says
for how many chunks there is one, and `restore` puts it into the target slot. Neither `Slots` nor the engine changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ninestory.architectures.chatglm import positions_and_mask
from ninestory.core.errors import Unsupported
from ninestory.runtimes.torch import attention
from ninestory.runtimes.torch.device_map import layer_devices
from ninestory.runtimes.torch.kv_store import KVStore
from ninestory.runtimes.torch.slots import Store
from ninestory.runtimes.torch.step import Row, Step, positions


class Decoder(Protocol):
    """A causal model with `slots` places for running requests.

    Attributes:
        chunked: a prompt may be computed in chunks, which can be reused; False = only as a whole (ChatGLM, whose
            context sees itself in both directions).
        vocabulary: number of logits.
        device: of the ids that come in and the logits that go out; layers may stand on several.
    """

    chunked: bool
    vocabulary: int
    device: torch.device

    @property
    def store(self) -> Store: ...

    def forward(self, ids: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """Hidden states [T, hidden] of the packed tokens `ids` [T], whose rows follow one another."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [R, vocabulary] of chosen hidden states [R, hidden]."""
        ...


class TransformersDecoder:
    """A causal model of transformers, its attention replaced by `Step.attend`. The model is changed for good.

    Args:
        context: tokens of one slot.

    Raises:
        Unsupported: the architecture's attention is not known here.
    """

    chunked = True

    def __init__(self, model: Any, *, slots: int, context: int) -> None:
        config = model.config
        self.device = model.device
        attention.install(model)
        self._base: nn.Module = model.base_model
        self._head: nn.Module = model.get_output_embeddings()
        self._bias = attention.bias(model, context)
        self.vocabulary = self._head.out_features if hasattr(self._head, "out_features") else config.vocab_size
        heads = config.num_attention_heads
        self.store = KVStore(
            devices=layer_devices(self._base, config.num_hidden_layers),
            slots=slots,
            kv_heads=attention.kv_heads(config),
            length=context,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=model.dtype,
        )

    def forward(self, ids: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        step = Step(rows, self.store, self.device, bias=self._bias)
        places = positions(rows, self.device)[None]
        out = self._base(input_ids=ids[None], position_ids=places, past_key_values=step, use_cache=False)
        return out.last_hidden_state[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._head(hidden).float().to(self.device)


class ChatGLMDecoder:
    """ChatGLM-6B of the first generation: every token has two places, and the context sees itself both ways.

    So a prompt is computed as a whole, and no beginning of it can be reused. What a token's numbers do not owe to the
    tokens behind it are its embedding and the first layer's key and value; from that layer's attention on, every
    hidden state of the context has seen the newest question. One projection of the first of 28 layers is all that the
    next turn could take over, so nothing is kept, and the time to the first token grows with the conversation.
    """

    chunked = False

    def __init__(self, model: Any, *, slots: int, context: int) -> None:
        config = model.config
        self._config, self._base, self._head = config, model.transformer, model.lm_head
        self.device, self.vocabulary = model.device, config.vocab_size
        self._answers = [(0, 0)] * slots  # per slot: where the answer begins (<sop>), and the place it stands for
        self.store = KVStore(
            devices=layer_devices(self._base, config.num_layers),
            slots=slots,
            kv_heads=config.num_attention_heads,
            length=context,
            head_dim=config.hidden_size // config.num_attention_heads,
            dtype=model.dtype,
            prefix=self._prefix(model.dtype) if config.pre_seq_len else None,
        )

    def forward(self, ids: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        places, seen = [], []
        for row, new in zip(rows, ids.split([row.n for row in rows]), strict=True):
            if row.start == 0:
                made = positions_and_mask(new[None], self._config).positions[0]  # [2, n]
                self._answers[row.slot] = (int((made[1] == 0).sum()), int(made[0, -1]))
            else:
                start, place = self._answers[row.slot]
                answer = torch.arange(row.start, row.end, device=self.device) - start + 1
                made = torch.stack((torch.full_like(answer, place), answer))
            places.append(made)
            seen.append(self._answers[row.slot][0])
        step = Step(rows, self.store, self.device, seen=seen)
        return self._base.packed(ids[None], torch.cat(places, dim=1)[None], step)[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._head(hidden).float().to(self.device)

    def _prefix(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """P-Tuning v2's keys and values, each [layers, heads, pre_seq_len, head_dim]."""
        with torch.no_grad():
            pairs = self._base.prefix_keys_values(1, dtype)
        return torch.cat([key for key, _ in pairs]), torch.cat([value for _, value in pairs])


def decoder_of(model: Any, *, slots: int, context: int) -> Decoder:
    """The decoder of a loaded model.

    Raises:
        Unsupported: no decoder for this architecture.
    """
    kind = model.config.model_type
    if not hasattr(model, "base_model") or model.get_output_embeddings() is None:
        raise Unsupported(
            f"The torch runtime decodes causal language models, and {kind!r} is none.",
            hint="'ninestory show NAME' says what the model is for.",
            hint_zh="ninestory show 名称 可查看模型用途。",
        )
    if kind == "rwkv":
        from ninestory.runtimes.torch.rwkv import RwkvDecoder

        return RwkvDecoder(model, slots=slots)
    if kind == "llama":
        from ninestory.runtimes.torch.llama import LlamaDecoder

        return LlamaDecoder(model, slots=slots, context=context)
    if kind == "chatglm":
        return ChatGLMDecoder(model, slots=slots, context=context)
    return TransformersDecoder(model, slots=slots, context=context)
