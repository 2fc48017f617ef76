"""Keys and values of every slot, allocated once; joining and leaving move nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ninestory.runtimes.torch.slots import CHUNK


class KVStore:
    """Per layer K and V of [slots, kv_heads, prefix + length, head_dim]; memory is touched as it is filled.

    Args:
        devices: of each layer.
        length: tokens of one slot.
        prefix: keys and values that stand before every slot's own (P-Tuning v2): each [layers, kv_heads, n, head_dim].
    """

    def __init__(
        self,
        *,
        devices: Sequence[torch.device],
        slots: int,
        kv_heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype,
        prefix: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self.prefix = prefix[0].shape[2] if prefix else 0
        shape = (slots, kv_heads, self.prefix + length, head_dim)
        self._keys = [torch.empty(shape, dtype=dtype, device=device) for device in devices]  # a layer each
        self._values = [torch.empty(shape, dtype=dtype, device=device) for device in devices]
        if prefix:
            for layer in range(len(devices)):
                self._keys[layer][:, :, : self.prefix] = prefix[0][layer]
                self._values[layer][:, :, : self.prefix] = prefix[1][layer]
        # Per layer and slot [1, kv_heads, prefix + length, head_dim]: a view costs as much as copying a token.
        self._views = [
            [(keys[slot][None], values[slot][None]) for slot in range(slots)]
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def write(self, layer: int, slot: int, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put k, v [n, kv_heads, head_dim] behind the slot's `start` tokens."""
        keys, values = self._views[layer][slot]
        keys.narrow(2, self.prefix + start, k.shape[0]).copy_(k.transpose(0, 1))
        values.narrow(2, self.prefix + start, k.shape[0]).copy_(v.transpose(0, 1))

    def write_each(
        self, layer: int, slots: torch.Tensor, starts: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        """Put one token each, k, v [T, kv_heads, head_dim], behind the `starts` [T] tokens of different slots [T]."""
        self._keys[layer][slots, :, self.prefix + starts] = k
        self._values[layer][slots, :, self.prefix + starts] = v

    def read(self, layer: int, slot: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the prefix and the slot's first `end` tokens, each [1, kv_heads, keys, head_dim]."""
        keys, values = self._views[layer][slot]
        return keys.narrow(2, 0, self.prefix + end), values.narrow(2, 0, self.prefix + end)

    # --- slots.Store --------------------------------------------------------------------------------------------

    def reusable(self, slot: int, chunks: int) -> int:
        return chunks

    def restore(self, source: int, target: int, chunks: int) -> None:
        if source == target:
            return
        end = self.prefix + chunks * CHUNK
        for tensor in (*self._keys, *self._values):
            tensor[target, :, self.prefix : end] = tensor[source, :, self.prefix : end]

    def chunk_done(self, slot: int, chunks: int) -> None:
        pass
