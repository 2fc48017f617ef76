"""Which slot a request gets, and how much of its prompt is already computed in one.

Only whole chunks of 64 prompt tokens, computed by prefill from position 0 on the same grid, are reused: then a hit and
a miss give the same bits. Keys and values of tokens that were decoded one by one differ in the last bits, so an answer
is prefilled again with the next turn. Copying a chunk costs a thousandth of computing it; so slots are copied, never
shared.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

CHUNK = 64  # tokens


class Store(Protocol):
    """What a decoder keeps a slot: keys and values, or a recurrent state."""

    def reusable(self, slot: int, chunks: int) -> int:
        """How many of the first `chunks` chunks of the slot can be given to another request (≤ `chunks`)."""
        ...

    def restore(self, source: int, target: int, chunks: int) -> None:
        """Make `target` hold exactly the first `chunks` chunks of `source`; 0 = an empty slot. They may be the same."""
        ...

    def chunk_done(self, slot: int, chunks: int) -> None:
        """The slot's first `chunks` chunks have just been prefilled, and nothing after them."""
        ...


@dataclass(frozen=True)
class Lease:
    """A slot that a request holds; its first `reused` tokens need not be computed."""

    slot: int
    reused: int


@dataclass
class _Slot:
    chain: list[bytes] = field(default_factory=list)  # chained hashes of its prefilled chunks
    busy: bool = False
    used: int = 0


class Slots:
    """Book-keeping of `count` slots over a store.

    Args:
        salt: what the numbers depend on besides the tokens (weights, dtype, adapters).
    """

    def __init__(self, count: int, store: Store, salt: bytes = b"") -> None:
        self._slots = [_Slot() for _ in range(count)]
        self._store, self._salt, self._clock = store, salt, 0

    @property
    def free(self) -> int:
        return sum(not slot.busy for slot in self._slots)

    def take(self, prompt: Sequence[int]) -> Lease | None:
        """A free slot with the longest known beginning of `prompt` in it, or None when all are busy.

        At least the last token is left to compute: its logits are wanted.
        """
        idle = sorted((i for i, slot in enumerate(self._slots) if not slot.busy), key=lambda i: self._slots[i].used)
        if not idle:
            return None
        wanted = self._chain(prompt, (len(prompt) - 1) // CHUNK)
        known = [self._store.reusable(i, _common(slot.chain, wanted)) for i, slot in enumerate(self._slots)]
        source = max(range(len(known)), key=lambda i: (known[i], i in idle))
        chunks = known[source]
        target = idle[0]
        if chunks:  # a longer chain stays for who may come back to it, as long as another slot is free
            whole = source in idle and len(self._slots[source].chain) == chunks
            target = source if whole else next((i for i in idle if i != source), idle[0])
        self._store.restore(source, target, chunks)
        self._slots[target] = _Slot(chain=wanted[:chunks], busy=True, used=self._tick())
        return Lease(target, chunks * CHUNK)

    def prefilled(self, slot: int, prompt: Sequence[int], tokens: int) -> None:
        """The first `tokens` of the prompt are computed; a chunk that this completed can be reused."""
        if tokens % CHUNK:
            return
        chunks = tokens // CHUNK
        self._slots[slot].chain = self._chain(prompt, chunks)
        self._store.chunk_done(slot, chunks)

    def give_back(self, slot: int) -> None:
        self._slots[slot].busy, self._slots[slot].used = False, self._tick()

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _chain(self, prompt: Sequence[int], chunks: int) -> list[bytes]:
        chain, last = [], self._salt
        for i in range(chunks):
            tokens = array("q", prompt[i * CHUNK : (i + 1) * CHUNK]).tobytes()
            last = hashlib.blake2b(last + tokens, digest_size=16).digest()
            chain.append(last)
        return chain


def _common(first: Sequence[bytes], second: Sequence[bytes]) -> int:
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return count
