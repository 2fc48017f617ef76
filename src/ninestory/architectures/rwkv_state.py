"""RWKV's recurrent state: a few tensors per layer, of a size independent of the text's length.

`RwkvState` holds the states of several texts, one per slot; a slot can be copied (forked), cleared, saved and read.
`PackedSequences` maps the tokens of one forward to slots, so that sequences of any lengths are packed without padding
and the results of each depend on its own tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ninestory.core.errors import Damaged, InvalidRequest

# Running maximum of version 4's exponents before the first token.
NO_MAXIMUM = -1e30

Recurrence = Callable[[list[torch.Tensor], list[torch.Tensor]], tuple[torch.Tensor, list[torch.Tensor]]]


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of one layer's state. Version 4: three vectors of attention_size; later: heads × head_size × head_size."""

    version: str
    hidden_size: int
    attention_size: int
    heads: int
    head_size: int


@dataclass
class LayerState:
    """One layer's tensors, slots first.

    att_prev, ffn_prev: [slots, hidden], the previous token's normed input of the two halves, in the layer's dtype.
    memory: version 4: three [slots, attention_size] float32 (numerator, denominator, running maximum); version 5 and
        6: one [slots, heads, key, value] float32; version 7: one [slots, heads, value, key] float32.
    """

    att_prev: torch.Tensor
    memory: list[torch.Tensor]
    ffn_prev: torch.Tensor

    def tensors(self) -> list[torch.Tensor]:
        """The layer's tensors in the original's order."""
        return [self.att_prev, *self.memory, self.ffn_prev]


class RwkvState:
    """The state of `slots` texts. All methods work in place on single slots unless they say otherwise."""

    def __init__(self, layers: list[LayerState], start: list[torch.Tensor | None] | None = None) -> None:
        self.layers = layers
        self._start = start or [None] * len(layers)  # a tuned first memory [heads, N, N], by layer

    @classmethod
    def empty(
        cls,
        sizes: LayerSizes,
        places: Sequence[tuple[torch.device, torch.dtype]],
        slots: int = 1,
        start: list[torch.Tensor | None] | None = None,
    ) -> RwkvState:
        """States before the first token, one layer for each (device, dtype) of `places`."""
        layers = []
        for device, dtype in places:
            prev = [torch.zeros(slots, sizes.hidden_size, device=device, dtype=dtype) for _ in range(2)]
            if sizes.version == "4":
                memory = [torch.zeros(slots, sizes.attention_size, device=device) for _ in range(3)]
            else:
                memory = [torch.zeros(slots, sizes.heads, sizes.head_size, sizes.head_size, device=device)]
            layers.append(LayerState(prev[0], memory, prev[1]))
        state = cls(layers, start)
        for slot in range(slots):
            state.clear(slot)
        return state

    @property
    def slots(self) -> int:
        return self.layers[0].att_prev.shape[0]

    @property
    def nbytes_a_slot(self) -> int:
        """Bytes of one text's memory, whatever its length."""
        return sum(t[0].numel() * t.element_size() for layer in self.layers for t in layer.tensors())

    def clear(self, slot: int) -> None:
        """Reset to the state before the first token (the tuned initial state if the checkpoint has one)."""
        for layer, start in zip(self.layers, self._start, strict=True):
            for tensor in layer.tensors():
                tensor[slot].zero_()
            if len(layer.memory) == 3:
                layer.memory[2][slot].fill_(NO_MAXIMUM)
            elif start is not None:
                layer.memory[0][slot].copy_(start)

    def copy_slot(self, source: int, target: int) -> None:
        """Copy the state of slot `source` to slot `target` (a fork)."""
        for layer in self.layers:
            for tensor in layer.tensors():
                tensor[target].copy_(tensor[source])

    def fork(self, slots: Sequence[int] | None = None) -> RwkvState:
        """Copy these slots (default: all) to a new state."""
        index = list(range(self.slots)) if slots is None else list(slots)
        layers = [LayerState(a[index], [m[index] for m in memory], f[index]) for a, memory, f in _parts(self.layers)]
        return RwkvState(layers, self._start)

    def put(self, slot: int, other: RwkvState, other_slot: int = 0) -> None:
        """Copy a slot of another state of the same model into this one."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            for target, source in zip(mine.tensors(), theirs.tensors(), strict=True):
                target[slot].copy_(source[other_slot])

    def save(self, path: Path, slot: int = 0) -> None:
        """Write one slot as safetensors: `layer.index` → tensor, in the original's order."""
        from safetensors.torch import save_file

        save_file(
            {f"{i}.{j}": t[slot].contiguous() for i, layer in enumerate(self.layers) for j, t in _numbered(layer)}, path
        )

    def read(self, path: Path, slot: int = 0) -> None:
        """Read what `save` wrote into one slot.

        Raises:
            Damaged: the file is not safetensors. InvalidRequest: the state belongs to another model.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            saved = load_file(path)
        except (SafetensorError, OSError) as error:
            raise Damaged(
                f"{path.name} is not a saved state: {error}.", hint="Save the state again.", hint_zh="请重新保存状态。"
            ) from error
        mine = {f"{i}.{j}": t[slot] for i, layer in enumerate(self.layers) for j, t in _numbered(layer)}
        if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in mine.items()}:
            raise InvalidRequest(
                f"{path.name} has tensors of other shapes; expected the state of this model.",
                hint="Use a state that this model has saved.",
                hint_zh="状态只能用于生成它的模型。",
            )
        for name, tensor in mine.items():
            tensor.copy_(saved[name])


def _numbered(layer: LayerState) -> Iterable[tuple[int, torch.Tensor]]:
    return enumerate(layer.tensors())


def _parts(layers: list[LayerState]) -> Iterable[tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]]:
    return ((layer.att_prev, layer.memory, layer.ffn_prev) for layer in layers)


@dataclass(frozen=True)
class _EqualLengths:
    """Sequences of equal length, scanned as one batch. tokens: [rows, n], indices into the flat axis; slots: [rows]."""

    tokens: torch.Tensor
    slots: torch.Tensor
    whole: bool  # all tokens of the forward, in order: then the flat tensor is only viewed


class PackedSequences:
    """Sequences packed into the flat token axis [T] of one forward, each with the state slot it continues.

    Args:
        rows: (slot, start, length); positions outside every row are padding and stay zero.
        total: T.
    """

    def __init__(self, rows: Sequence[tuple[int, int, int]], total: int, device: torch.device) -> None:
        by_length: dict[int, list[tuple[int, int, int]]] = {}
        for row in rows:
            by_length.setdefault(row[2], []).append(row)
        self.device = device
        self._groups = []
        for length, members in by_length.items():
            tokens = torch.tensor([[start + i for i in range(length)] for _, start, _ in members], device=device)
            slots = torch.tensor([slot for slot, _, _ in members], device=device)
            whole = tokens.numel() == total and bool((tokens.flatten() == torch.arange(total, device=device)).all())
            self._groups.append(_EqualLengths(tokens, slots, whole))

    @classmethod
    def of_batch(
        cls, attention_mask: torch.Tensor | None, shape: tuple[int, int], device: torch.device
    ) -> PackedSequences:
        """The sequences of a left-padded batch [batch, seq]; slot = batch row."""
        batch, length = shape
        if attention_mask is None:
            return cls([(b, b * length, length) for b in range(batch)], batch * length, device)
        mask = attention_mask[:, -length:].bool()
        if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
            raise ValueError(
                "attention_mask has padding on the right; expected it on the left, because padding would enter the state"
            )
        counts = [int(n) for n in mask.sum(1)]
        rows = [(b, (b + 1) * length - n, n) for b, n in enumerate(counts) if n]
        return cls(rows, batch * length, device)

    def to(self, device: torch.device) -> PackedSequences:
        """Move the index tensors to another device."""
        moved = PackedSequences.__new__(PackedSequences)
        moved.device = device
        moved._groups = [_EqualLengths(g.tokens.to(device), g.slots.to(device), g.whole) for g in self._groups]
        return moved

    def previous(self, x: torch.Tensor, prev: torch.Tensor | None) -> torch.Tensor:
        """Token shift: for each token the previous one of its sequence, [T, C]; `prev` [slots, C] precedes each sequence.

        `prev` is updated in place. None means that the rows start here and are not continued.
        """
        out = torch.zeros_like(x) if not self._groups or not self._groups[0].whole else x
        for group in self._groups:
            seq = x.view(*group.tokens.shape, -1) if group.whole else x[group.tokens]  # [rows, n, C]
            first = seq.new_zeros(seq.shape[0], 1, seq.shape[2]) if prev is None else prev[group.slots][:, None]
            shifted = torch.cat((first, seq[:, :-1]), dim=1)
            if prev is not None:
                prev[group.slots] = seq[:, -1]
            if group.whole:
                return shifted.flatten(0, 1)
            out[group.tokens] = shifted
        return out

    def scan(
        self,
        recurrence: Recurrence,
        inputs: list[torch.Tensor],  # each [T, …]
        memory: list[torch.Tensor] | None,  # each [slots, …]; updated in place
        fresh: Callable[[int], list[torch.Tensor]],  # number of rows → their memory before the first token
    ) -> torch.Tensor:
        """Run the recurrence over each sequence's tokens in order; returns [T, …] like the first input."""
        out = torch.zeros_like(inputs[0]) if not self._groups or not self._groups[0].whole else inputs[0]
        for group in self._groups:
            shape = group.tokens.shape
            batch = [t.unflatten(0, shape) if group.whole else t[group.tokens] for t in inputs]
            initial = fresh(shape[0]) if memory is None else [m[group.slots] for m in memory]
            result, final = recurrence(batch, initial)
            for tensor, new in zip(memory or [], final, strict=False):
                tensor[group.slots] = new
            if group.whole:
                return result.flatten(0, 1)
            out[group.tokens] = result
        return out
