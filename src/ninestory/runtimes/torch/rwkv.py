"""RWKV in the batching engine: a state a slot in place of keys and values, of the same size whatever was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ninestory.architectures.rwkv import RwkvForCausalLM
from ninestory.architectures.rwkv_state import PackedSequences, RwkvState
from ninestory.runtimes.torch.step import Row

READ_CHUNK = 256  # tokens; bounds the activations of a long prompt, the numbers are the same


class RwkvStore:
    """A running state for each slot, and a snapshot of it at the last whole chunk of its prompt.

    A state cannot be cut back, so only that snapshot can be given to another request: the next turn of the same
    conversation finds it, a prompt that parts from this one earlier does not.
    """

    def __init__(self, model: RwkvForCausalLM, slots: int) -> None:
        self.state = model.new_state(slots)
        self._snapshots = model.new_state(slots)
        self._chunks = [0] * slots  # what each snapshot holds

    @property
    def nbytes_a_slot(self) -> int:
        return 2 * self.state.nbytes_a_slot

    def reusable(self, slot: int, chunks: int) -> int:
        return self._chunks[slot] if self._chunks[slot] <= chunks else 0

    def restore(self, source: int, target: int, chunks: int) -> None:
        if not chunks:
            self.state.clear(target)
            self._chunks[target] = 0
            return
        self.state.put(target, self._snapshots, source)
        if source != target:
            self._snapshots.copy_slot(source, target)
            self._chunks[target] = chunks

    def chunk_done(self, slot: int, chunks: int) -> None:
        self._snapshots.put(slot, self.state, slot)
        self._chunks[slot] = chunks


class RwkvDecoder:
    """`decoder.Decoder` over an RWKV: rows of any lengths in one pass, each with its own state."""

    chunked = True

    def __init__(self, model: RwkvForCausalLM, *, slots: int) -> None:
        self._model = model
        self.store = RwkvStore(model, slots)
        self.vocabulary = model.config.vocab_size
        self.device = model.emb.weight.device

    def forward(self, ids: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        packed, at = [], 0
        for row in rows:
            packed.append((row.slot, at, row.n))
            at += row.n
        return self._model.hidden(self._model.emb(ids), PackedSequences(packed, at, self.device), self.store.state)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._model.logits(hidden).float()


class RwkvReader:
    """One text at a time, with states that the caller keeps: what a session that goes back and forks needs."""

    def __init__(self, model: RwkvForCausalLM) -> None:
        self._model = model

    @torch.inference_mode()
    def read(self, tokens: list[int], state: RwkvState | None) -> tuple[np.ndarray[Any, Any], RwkvState]:
        """float32 logits [vocab] after the last of `tokens`, and the state there; the given state stays valid."""
        after = self._model.new_state() if state is None else state.fork()
        for start in range(0, len(tokens), READ_CHUNK):
            ids = torch.tensor([tokens[start : start + READ_CHUNK]], device=self._model.emb.weight.device)
            logits = self._model(ids, state=after, logits_to_keep=1).logits[0, -1]
        return logits.float().cpu().numpy(), after
