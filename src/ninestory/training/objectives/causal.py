"""Next-token prediction for every causal family: from rows of tokens to the states that predict their labels.

Families that go through transformers' attention interface are packed: the rows of a micro-batch lie behind one another
in one line, no position is wasted on padding. The others, and the methods that put keys before every row, are padded
on the right. Packing is tried once with two short rows, not looked up by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ninestory.training import attention
from ninestory.training.batches import IGNORED, TokenRow
from ninestory.training.loss import chunked_cross_entropy, chunked_label_losses, label_losses
from ninestory.training.methods import AdaptedModel
from ninestory.training.objective import Objective
from ninestory.training.processes import full_tensor

_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True)
class ModelInputs:
    """Model arguments, and where the labels' states lie in the flattened output."""

    arguments: dict[str, Any]
    positions: torch.Tensor  # int64 [labels]: index into [batch · sequence]
    labels: torch.Tensor  # int64 [labels]


class CausalObjective(Objective[TokenRow]):
    """Cross-entropy of the labelled tokens. `packed`: the rows of a micro-batch lie in one line."""

    def __init__(self, model: Any, *, allow_packing: bool = True) -> None:
        self.model = model
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.body = self.base.base_model
        self.head = self.base.get_output_embeddings()
        self.device = next(model.parameters()).device
        self.whole_logits = any(getattr(self.base.config, name, None) not in (None, 1, 1.0) for name in _LOGIT_CHANGES)
        self.packed = allow_packing and not self.whole_logits and self._packs()

    def inputs(self, rows: Sequence[TokenRow]) -> ModelInputs:
        """Packed: [1, sum of lengths] with positions that begin anew in every row. Padded: [rows, longest]."""
        return self._packed_inputs(rows) if self.packed else self._padded_inputs(rows)

    def loss(self, rows: Sequence[TokenRow], scale: float) -> torch.Tensor:
        """scale · Σ over the learned tokens of −log p, differentiable."""
        inputs = self.inputs(rows)
        states = self._states(inputs)
        if self.whole_logits:
            return torch.nn.functional.cross_entropy(states, inputs.labels, reduction="sum") * scale
        return chunked_cross_entropy(states, full_tensor(self.head.weight), self._bias(), inputs.labels, scale)

    def evaluate(self, rows: Sequence[TokenRow]) -> tuple[float, float]:
        """Return (Σ −log p, count) of the labelled tokens."""
        losses = self.token_losses(rows)
        return float(losses.double().sum()), len(losses)

    @torch.no_grad()
    def token_losses(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        """−log p of every learned token, float32 [labels], row after row."""
        inputs = self.inputs(rows)
        states = self._states(inputs)
        if self.whole_logits:
            return torch.nn.functional.cross_entropy(states, inputs.labels, reduction="none")
        return label_losses(states, full_tensor(self.head.weight), self._bias(), inputs.labels)

    def row_log_probabilities(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        """Σ log p over the learned tokens of each row, float32 [rows], differentiable."""
        inputs = self.inputs(rows)
        states = self._states(inputs)
        if self.whole_logits:
            losses = torch.nn.functional.cross_entropy(states, inputs.labels, reduction="none")
        else:
            losses = chunked_label_losses(states, full_tensor(self.head.weight), self._bias(), inputs.labels)
        counts = torch.tensor([row.weight for row in rows], device=self.device)
        owners = torch.arange(len(rows), device=self.device).repeat_interleave(counts)
        return -losses.new_zeros(len(rows)).index_add(0, owners, losses)

    @contextmanager
    def masked_attention(self) -> Iterator[None]:
        """Use masked attention, for generation from rows padded on the left; packed attention has no mask."""
        if not self.packed:
            yield
            return
        self.base.set_attn_implementation("sdpa")
        try:
            yield
        finally:
            self.base.set_attn_implementation(attention.NAME)

    def _bias(self) -> torch.Tensor | None:
        bias = getattr(self.head, "bias", None)
        return None if bias is None else full_tensor(bias)

    def _states(self, inputs: ModelInputs) -> torch.Tensor:
        """Hidden states [labels, hidden] that predict the labels; logits for families that rescale them."""
        if self.whole_logits:
            states = self.model(**inputs.arguments).logits.float()
        else:
            with _caught_output(self.body) as caught:
                self.model(**inputs.arguments, logits_to_keep=1)
            states = caught[-1] if isinstance(caught[-1], torch.Tensor) else caught[-1][0]
        width = inputs.arguments["input_ids"].shape[1]
        states = states[:, -width:]  # prompt tuning puts its virtual tokens in front
        return states.flatten(0, 1).index_select(0, inputs.positions)

    def _packed_inputs(self, rows: Sequence[TokenRow]) -> ModelInputs:
        lengths = [len(row.ids) for row in rows]
        ids = self._long([token for row in rows for token in row.ids])[None]
        places = torch.cat([torch.arange(n, device=self.device) for n in lengths])[None]
        labels = self._long([label for row in rows for label in (IGNORED, *row.labels[1:])])
        learned = (labels != IGNORED).nonzero().squeeze(1)
        arguments = {"input_ids": ids, "position_ids": places, "use_cache": False, "seg": lengths}
        return ModelInputs(arguments, learned - 1, labels[learned])

    def _padded_inputs(self, rows: Sequence[TokenRow]) -> ModelInputs:
        """Causal models need no mask for padding on the right: no real token sees it, and no label stands on it."""
        longest = max(len(row.ids) for row in rows)
        pad = getattr(self.base.config, "pad_token_id", None) or 0
        ids = self._long([row.ids + [pad] * (longest - len(row.ids)) for row in rows])
        mask = self._long([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
        filled = [[IGNORED, *row.labels[1:], *[IGNORED] * (longest - len(row.ids))] for row in rows]
        labels = self._long(filled).flatten()
        learned = (labels != IGNORED).nonzero().squeeze(1)
        arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if self.base.config.model_type != "chatglm":  # takes its mask as padding on the left; see its `layout`
            arguments["attention_mask"] = mask
        return ModelInputs(arguments, learned - 1, labels[learned])

    def _long(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    @torch.no_grad()
    def _packs(self) -> bool:
        """Whether two short rows packed into one line give the same states as each row alone."""
        if not getattr(self.base, "_supports_attention_backend", False):
            return False
        implementation, training = self.base.config._attn_implementation, self.model.training
        ids = [i % self.base.config.vocab_size for i in (3, 5, 7, 11, 13, 17, 19)]
        rows = [TokenRow(ids[:3], ids[:3]), TokenRow(ids[3:], ids[3:])]
        self.model.eval()
        alone = torch.cat([self._states(self._padded_inputs([row])) for row in rows])
        attention.install(self.base)
        try:
            same = torch.allclose(self._states(self._packed_inputs(rows)), alone, rtol=1e-3, atol=1e-3)
        except (TypeError, RuntimeError, ValueError):
            same = False
        if not same:
            self.base.set_attn_implementation(implementation)
        self.model.train(training)
        return same


def causal_objective(adapted: AdaptedModel) -> CausalObjective:
    """Make the objective of an adapted model, for the `Trainer`."""
    return CausalObjective(adapted.module, allow_packing=adapted.packs)


@contextmanager
def _caught_output(module: torch.nn.Module) -> Iterator[list[Any]]:
    """Collect what `module` returns inside the block; the model runs as usual, adapters included."""
    caught: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    try:
        yield caught
    finally:
        handle.remove()
