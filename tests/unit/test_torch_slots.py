"""Slots: the longest known beginning is taken, a conversation's slot is left to it, and no last token is reused."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from ninestory.runtimes.torch.slots import CHUNK, Lease, Slots

pytestmark = pytest.mark.torch


class Moves:
    """A store that writes down what is asked of it and can give out only `cuts`."""

    def __init__(self, cuts: set[int] | None = None) -> None:
        self.moves: list[tuple[int, int, int]] = []
        self._cuts = cuts

    def reusable(self, slot: int, chunks: int) -> int:
        return chunks if self._cuts is None else max((c for c in self._cuts if c <= chunks), default=0)

    def restore(self, source: int, target: int, chunks: int) -> None:
        self.moves.append((source, target, chunks))

    def chunk_done(self, slot: int, chunks: int) -> None: ...


def _taken(slots: Slots, prompt: list[int]) -> Lease:
    lease = slots.take(prompt)
    assert lease is not None
    return lease


def _finish(slots: Slots, prompt: list[int]) -> Lease:
    """Take a slot, prefill the whole prompt, give the slot back."""
    lease = _taken(slots, prompt)
    for done in range(lease.reused + CHUNK, len(prompt) + 1, CHUNK):
        slots.prefilled(lease.slot, prompt, done)
    slots.give_back(lease.slot)
    return lease


def test_the_next_turn_continues_in_its_own_slot() -> None:
    slots, turn = Slots(3, Moves()), list(range(200))
    first = _finish(slots, turn)
    again = _taken(slots, [*turn, *range(50)])
    assert (first.reused, again) == (0, Lease(first.slot, 3 * CHUNK))


def test_the_last_token_is_always_computed() -> None:
    slots, prompt = Slots(2, Moves()), list(range(2 * CHUNK))
    _finish(slots, prompt)
    assert _taken(slots, prompt).reused == CHUNK


def test_a_shared_beginning_is_copied_and_the_longer_conversation_kept() -> None:
    store = Moves()
    slots, long = Slots(3, store), list(range(5 * CHUNK + 1))
    first = _finish(slots, long)
    other = _finish(slots, [*long[:CHUNK], *range(900, 1000)])
    assert other.reused == CHUNK and other.slot != first.slot and store.moves[-1] == (first.slot, other.slot, 1)
    assert _taken(slots, long).reused == 5 * CHUNK


def test_a_busy_slot_is_copied_from() -> None:
    slots, prompt = Slots(2, Moves()), list(range(CHUNK + 1))
    busy = _taken(slots, prompt)
    slots.prefilled(busy.slot, prompt, CHUNK)
    lease = _taken(slots, prompt)
    assert lease.slot != busy.slot and lease.reused == CHUNK
    assert slots.take(prompt) is None and slots.free == 0


def test_the_least_recently_used_slot_is_evicted() -> None:
    slots = Slots(2, Moves())
    old, new = [1] * 100, [2] * 100
    first = _finish(slots, old)
    _finish(slots, new)
    assert _taken(slots, [3] * 100).slot == first.slot
    assert _taken(slots, new).reused == CHUNK


def test_a_store_gives_out_only_what_it_kept() -> None:
    slots, prompt = Slots(1, Moves(cuts={2})), list(range(4 * CHUNK + 1))
    _finish(slots, prompt)
    assert _taken(slots, prompt).reused == 2 * CHUNK


def test_other_weights_or_adapters_share_nothing() -> None:
    chains = [Slots(1, Moves(), salt=salt)._chain(list(range(CHUNK)), 1) for salt in (b"", b"adapter")]
    assert chains[0] != chains[1]
