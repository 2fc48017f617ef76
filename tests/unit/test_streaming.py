"""Several streams of chunks as one: all of each, a few at a time, and none left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ninestory.serving.streaming import merged


class Sources:
    """Counts which of its iterators are open."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.most = 0
        self.started: list[int] = []

    async def numbers(self, name: int, count: int, fails: bool = False) -> AsyncIterator[int]:
        self.open.add(name)
        self.started.append(name)
        self.most = max(self.most, len(self.open))
        try:
            for i in range(count):
                await asyncio.sleep(0)
                yield i
            if fails:
                raise ValueError(name)
        finally:
            self.open.discard(name)


def test_all_chunks_come_in_their_own_order_and_few_run_at_a_time() -> None:
    sources = Sources()

    async def collect() -> list[tuple[int, int]]:
        return [pair async for pair in merged([sources.numbers(name, name + 1) for name in range(6)], lambda: 2)]

    pairs = asyncio.run(collect())
    assert sorted(pairs) == [(name, i) for name in range(6) for i in range(name + 1)]
    assert all([i for n, i in pairs if n == name] == list(range(name + 1)) for name in range(6))
    assert sources.most == 2 and sources.started == list(range(6)) and not sources.open


def test_the_first_error_ends_all() -> None:
    sources = Sources()

    async def collect() -> None:
        iterators = [sources.numbers(0, 1000), sources.numbers(1, 1, fails=True), sources.numbers(2, 1000)]
        with pytest.raises(ValueError, match="1"):
            async for _ in merged(iterators, lambda: 2):
                pass
        assert not sources.open and sources.started == [0, 1]  # the third was never begun

    asyncio.run(collect())


def test_who_leaves_early_leaves_nothing_open() -> None:
    sources = Sources()

    async def leave() -> None:
        pairs = merged([sources.numbers(name, 1000) for name in range(3)], lambda: 3)
        async for _ in pairs:
            break
        await pairs.aclose()  # type: ignore[attr-defined]
        assert not sources.open

    asyncio.run(leave())
