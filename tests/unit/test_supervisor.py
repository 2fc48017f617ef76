"""A real worker with the starter model, seen through its supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import NotFound
from ninestory.runtimes.protocol import CompletionRequest
from ninestory.serving.supervisor import WorkerProcess
from tests.echo_worker import run

pytestmark = [pytest.mark.slow, pytest.mark.starter]
REQUEST = CompletionRequest(prompt="Once upon a time", max_tokens=24)


def with_worker(home: Path, story: Callable[[WorkerProcess], Awaitable[None]]) -> None:
    async def run() -> None:
        worker = WorkerProcess("starter:smollm2-135m-instruct", RuntimeSettings(context=256, threads=1, slots=1), home)
        await worker.resolve(60)
        assert worker.needed_bytes > 50_000_000
        await worker.load(120)
        assert worker.state == "ready" and worker.rss_bytes > 50_000_000
        await story(worker)
        await worker.drain(5)
        assert worker.dead.is_set()

    asyncio.run(run())


def test_the_engine_is_free_while_its_client_still_reads(tmp_path: Path) -> None:
    async def story(worker: WorkerProcess) -> None:
        ended = asyncio.Event()
        chunks = run(worker, REQUEST, ended.set)
        await anext(chunks)
        assert (worker.state, worker.active) == ("busy", 1)
        await asyncio.wait_for(ended.wait(), 60)
        assert (worker.state, worker.active) == ("ready", 0)
        rest = [chunk.kind async for chunk in chunks]
        assert rest[-1] == "usage" and "finished" in rest

    with_worker(tmp_path, story)


def test_a_model_that_is_not_there_is_the_workers_own_error(tmp_path: Path) -> None:
    async def story() -> None:
        worker = WorkerProcess("hf:nobody/nothing", RuntimeSettings(), tmp_path)
        with pytest.raises(NotFound, match="hf:nobody/nothing"):
            await worker.resolve(60)
        await asyncio.wait_for(worker.dead.wait(), 10)

    asyncio.run(story())
