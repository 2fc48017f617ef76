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
        # Per layer and slot [kv_heads, prefix + length, head_dim]: a view costs as much as copying a token.
        self._views = [
            [(self._keys[layer, slot], self._values[layer, slot]) for slot in range(slots)] for layer in range(layers)
        ]

    def write(
        self, layer: int, slot: int, start: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put k, v [n, kv_heads, head_dim] behind the slot's `start` tokens; views of all [kv_heads, keys, head_dim]."""
        first, n = self.prefix + start, k.shape[0]
        keys, values = self._views[layer][slot]
        keys.narrow(1, first, n).copy_(k.transpose(0, 1))
        values.narrow(1, first, n).copy_(v.transpose(0, 1))
        return keys.narrow(1, 0, first + n), values.narrow(1, 0, first + n)

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
