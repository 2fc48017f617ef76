"""One forward pass over several requests at once: their tokens written one after another, without padding.

Linears, norms and activations see T tokens; only attention knows of rows, and each row attends over exactly its own
length. That is what makes a request's numbers independent of its neighbours: a padded or masked key changes the bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ninestory.runtimes.torch.kv_store import KVStore


@dataclass(frozen=True)
class Row:
    """`n` new tokens of the request in `slot`, which already holds `start` tokens."""

    slot: int
    start: int
    n: int

    @property
    def end(self) -> int:
        return self.start + self.n


def positions(rows: Sequence[Row], device: torch.device) -> torch.Tensor:
    """Place of every packed token in its own text, int64 [T]."""
    return torch.cat([torch.arange(row.start, row.end, device=device) for row in rows])


class Step:
    """The rows of one pass and where their keys and values are kept.

    Args:
        device: of the packed tokens.
        bias: [heads, keys] added to the scores of each key (alibi), or None.
        seen: per row, how many first keys every one of its new tokens may see, also those before them (ChatGLM's
            context is bidirectional); 0 = plain causal.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        store: KVStore,
        device: torch.device,
        *,
        bias: torch.Tensor | None = None,
        seen: Sequence[int] = (),
    ) -> None:
        self.rows, self.store = rows, store
        self._sizes = [row.n for row in rows]
        # Slots and places of a step in which several rows have one token each: they are written in one copy.
        each: tuple[torch.Tensor, torch.Tensor] | None = None
        if len(rows) > 1 and all(row.n == 1 for row in rows):
            slots, starts = torch.tensor([(row.slot, row.start) for row in rows], device=device).T
            each = slots, starts
        masks = [_mask(row, store.prefix, seen[i] if seen else 0, bias, device) for i, row in enumerate(rows)]
        self._first = device
        self._by_device = {device: (each, masks)}  # layers may stand on several cards

    def _on(self, device: torch.device) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, list[torch.Tensor | None]]:
        """Slots and places to write at, and a mask a row, on the device of a layer."""
        if device not in self._by_device:
            each, masks = self._by_device[self._first]
            moved = [mask if mask is None else mask.to(device) for mask in masks]
            self._by_device[device] = (each and (each[0].to(device), each[1].to(device)), moved)
        return self._by_device[device]

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None
    ) -> torch.Tensor:
        """Write the new keys and values into their slots and attend.

        Args:
            q: [T, heads, head_dim], rotated.
            k, v: [T, kv_heads, head_dim]; `heads` is a multiple of `kv_heads`.
            scale: of the scores; None = head_dim ** -0.5.

        Returns:
            [T, heads · head_dim]
        """
        each, masks = self._on(q.device)
        self._write(layer, k, v, each)
        contexts = []
        queries = q.transpose(0, 1)[None].split(self._sizes, dim=2)  # each [1, heads, n, head_dim]
        for row, mask, own in zip(self.rows, masks, queries, strict=True):
            keys, values = self.store.read(layer, row.slot, row.end)
            context = F.scaled_dot_product_attention(
                own,
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None and row.n > 1,
                scale=scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            contexts.append(context)
        together = torch.cat(contexts, dim=2) if len(contexts) > 1 else contexts[0]  # [1, heads, T, head_dim]
        return together[0].transpose(0, 1).flatten(1)

    def _write(
        self, layer: int, k: torch.Tensor, v: torch.Tensor, each: tuple[torch.Tensor, torch.Tensor] | None
    ) -> None:
        if each is not None:
            self.store.write_each(layer, *each, k, v)
            return
        for row, own_k, own_v in zip(self.rows, k.split(self._sizes), v.split(self._sizes), strict=True):
            self.store.write(layer, row.slot, row.start, own_k, own_v)

    # Families whose blocks pass nothing but the cache down to their attention are given the step in the cache's place;
    # their models ask it for a length, which only makes up positions and masks that are not used here.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return query_length, 0


def _mask(row: Row, prefix: int, seen: int, bias: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    """What a row's attention needs beside its keys: None where causal order or a single query says it all."""
    keys = prefix + row.end
    if bias is None and (row.n == 1 or (row.start == 0 and not seen and not prefix)):
        return None
    visible = None
    if row.n > 1:
        visible = torch.ones(row.n, keys, dtype=torch.bool, device=device).tril(prefix + row.start)
        visible[:, : prefix + seen] = True
    if bias is None:
        return visible
    scores = bias[None, :, None, :keys].expand(1, -1, row.n, -1)  # [1, heads, n, keys]
    return scores if visible is None else scores.masked_fill(~visible, torch.finfo(bias.dtype).min)
