"""Keys and values of every slot, allocated once; joining and leaving move nothing."""

from __future__ import annotations

import torch

from ninestory.runtimes.torch.slots import CHUNK


class KVStore:
    """Per layer K and V of [slots, kv_heads, prefix + length, head_dim]; memory is touched as it is filled.

    Args:
        length: tokens of one slot.
        prefix: keys and values that stand before every slot's own (P-Tuning v2): each [layers, kv_heads, n, head_dim].
    """

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        kv_heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        prefix: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self.device = device
        self.prefix = prefix[0].shape[2] if prefix else 0
        shape = (layers, slots, kv_heads, self.prefix + length, head_dim)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        if prefix:
            self._keys[:, :, :, : self.prefix] = prefix[0][:, None]
            self._values[:, :, :, : self.prefix] = prefix[1][:, None]
        # Per layer and slot [1, kv_heads, prefix + length, head_dim]: a view costs as much as copying a token.
        self._views = [
            [(self._keys[layer, slot][None], self._values[layer, slot][None]) for slot in range(slots)]
            for layer in range(layers)
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
        self._keys[:, target, :, self.prefix : end] = self._keys[:, source, :, self.prefix : end]
        self._values[:, target, :, self.prefix : end] = self._values[:, source, :, self.prefix : end]

    def chunk_done(self, slot: int, chunks: int) -> None:
        pass
