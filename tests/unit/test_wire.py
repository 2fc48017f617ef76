"""Gateway and worker through a real process with an echo engine: sound out, live input in, slow readers, leases."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ninestory.core.config import RuntimeSettings, ServeSettings, Settings
from ninestory.core.errors import Cancelled, DoesNotFit, TimedOut, TooLarge, Unavailable, Unsupported
from ninestory.core.paths import Home
from ninestory.runtimes.protocol import (
    Audio,
    ChatRequest,
    Chunk,
    Finished,
    Message,
    Segment,
    SpeakRequest,
    Text,
    TranscribeRequest,
)
from ninestory.serving.frames import MAX_FRAME
from ninestory.serving.job_broker import JobBroker
from ninestory.serving.job_engines import JobEngines
from ninestory.serving.pool import Pool
from ninestory.serving.proxy import PoolEngines
from ninestory.serving.supervisor import TimeLimit, WorkerProcess
from ninestory.serving.windows import WINDOW
from tests.echo_worker import PIECE, run
from tests.fake_cards import path_with_cards

pytestmark = pytest.mark.slow
ECHO = "hf:test/echo"
FULL = (
    WINDOW - 2 * 65_700
)  # what stands unread when the worker waits: it has not heard of the first chunk that was taken
CHAT = ChatRequest(messages=[Message(role="user", content="Hi")], max_tokens=5)


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerProcess, "module", "tests.echo_worker")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))


def with_worker(home: Path, story: Callable[[WorkerProcess], Awaitable[None]]) -> None:
    async def run() -> None:
        worker = WorkerProcess(ECHO, RuntimeSettings(), home)
        await worker.resolve(60)
        await worker.load(60)
        try:
            await asyncio.wait_for(story(worker), 20)
        finally:
            await worker.drain(5)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def collected(chunks: AsyncIterator[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in chunks]


def ignore() -> None: ...


# --- out ---------------------------------------------------------------------------------------------------------


def test_sound_comes_out_as_typed_chunks_and_a_slow_reader_slows_only_its_own_stream(tmp_path: Path) -> None:
    async def story(worker: WorkerProcess) -> None:
        ended = asyncio.Event()
        slow = run(worker, SpeakRequest(text="100"), ended.set)
        first = await anext(slow)
        assert isinstance(first, Audio) and base64.b64decode(first.pcm16) == PIECE
        stream = next(iter(worker._streams.values()))
        await until(lambda: stream.unread_bytes >= FULL)
        for _ in range(3):  # neighbours answer meanwhile, and nothing more comes of the slow one
            assert (await collected(run(worker, CHAT, ignore)))[-1] == Finished(reason="stop")
        assert stream.unread_bytes < WINDOW + 2 * 65_600 and not ended.is_set()
        rest = await collected(slow)
        assert len(rest) == 99 and all(isinstance(chunk, Audio) for chunk in rest) and ended.is_set()

    with_worker(tmp_path, story)


def test_a_stream_that_nobody_reads_is_cancelled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHO_UNREAD_SECONDS", "0.3")

    async def story(worker: WorkerProcess) -> None:
        ended = asyncio.Event()
        slow = run(worker, SpeakRequest(text="1000"), ended.set)
        await anext(slow)
        await ended.wait()  # its slot is free although its client still holds the stream
        with pytest.raises(Unavailable) as caught:
            await collected(slow)
        assert caught.value.code == "client_too_slow"
        assert (await collected(run(worker, CHAT, ignore)))[-1] == Finished(reason="stop")

    with_worker(tmp_path, story)


def test_what_does_not_fit_into_a_frame_is_refused_by_its_sender(tmp_path: Path) -> None:
    async def story(worker: WorkerProcess) -> None:
        huge = ChatRequest(messages=[Message(role="user", content="x" * MAX_FRAME)])
        with pytest.raises(TooLarge, match=str(MAX_FRAME)):
            await collected(run(worker, huge, ignore))
        assert worker.active == 0
        assert (await collected(run(worker, CHAT, ignore)))[-1] == Finished(reason="stop")

    with_worker(tmp_path, story)


def test_leaving_a_blocked_stream_frees_the_engine(tmp_path: Path) -> None:
    async def story(worker: WorkerProcess) -> None:
        chunks = run(worker, SpeakRequest(text="1000"), ignore)
        await anext(chunks)
        await until(lambda: next(iter(worker._streams.values())).unread_bytes >= FULL)
        await chunks.aclose()  # type: ignore[attr-defined]
        threads = psutil.Process(worker.pid)
        idle = threads.num_threads()
        await until(lambda: threads.num_threads() < idle or worker.active == 0)
        assert (await collected(run(worker, CHAT, ignore)))[-1] == Finished(reason="stop")

    with_worker(tmp_path, story)


# --- in ----------------------------------------------------------------------------------------------------------


def test_live_input_goes_in_and_its_source_waits_for_the_engine(tmp_path: Path) -> None:
    gate, sent = tmp_path / "gate", 0
    second = bytes(range(256)) * 250  # 64,000 bytes = one second of 16 kHz float32

    async def recording() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(60):
            yield second
            sent += len(second)

    async def story(worker: WorkerProcess) -> None:
        answer = asyncio.create_task(
            collected(run(worker, TranscribeRequest(language=str(gate)), ignore, feed=recording()))
        )
        await until(lambda: sent >= WINDOW)
        for _ in range(3):
            await collected(run(worker, CHAT, ignore))
        assert sent < WINDOW + 2 * len(second)  # the engine has taken nothing yet
        gate.touch()
        heard = [chunk for chunk in await answer if isinstance(chunk, Segment)]
        assert heard[-1].text == f"{60 * len(second)} {zlib.crc32(second * 60)}" and heard[-1].final
        assert len(heard) == 61

    with_worker(tmp_path, story)


def test_a_source_that_fails_ends_the_request_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(64)
        raise Unsupported("The recording is not mono.")

    async def story(worker: WorkerProcess) -> None:
        request = TranscribeRequest(language=str(tmp_path / "gate"))
        with pytest.raises(Unsupported, match="not mono"):
            await collected(run(worker, request, ignore, feed=broken()))

    with_worker(tmp_path, story)


# --- time --------------------------------------------------------------------------------------------------------


def test_progress_keeps_a_long_request_alive_and_silence_ends_it(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()

    async def every_tenth() -> AsyncIterator[bytes]:
        for _ in range(8):
            await asyncio.sleep(0.1)
            yield bytes(8)

    async def silence() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def story(worker: WorkerProcess) -> None:
        request = TranscribeRequest(language=str(tmp_path / "gate"))
        loop = asyncio.get_running_loop()

        def limit(from_last_chunk: bool) -> TimeLimit:
            return TimeLimit(loop.time(), 0.4, TimedOut("too long"), from_last_chunk=from_last_chunk)

        assert len(await collected(run(worker, request, ignore, limit(True), every_tenth()))) == 9
        for feed, from_last_chunk in ((every_tenth(), False), (silence(), True)):
            with pytest.raises(TimedOut):
                await collected(run(worker, request, ignore, limit(from_last_chunk), feed))

    with_worker(tmp_path, story)


# --- the pool and its engines -------------------------------------------------------------------------------------


def with_pool(
    tmp_path: Path,
    story: Callable[[Pool], Awaitable[None]],
    runtime: RuntimeSettings = RuntimeSettings(),  # noqa: B008
    **serve: Any,
) -> None:
    for name in ("echo", "other"):
        (tmp_path / "models" / "hf" / "test" / name / "main").mkdir(parents=True)

    async def run() -> None:
        pool = Pool(Settings(serve=ServeSettings(**serve), runtime=runtime), Home(tmp_path))
        await pool.start()
        try:
            await asyncio.wait_for(story(pool), 40)
        finally:
            await pool.close(5)

    asyncio.run(run())


def test_workers_reserved_together_share_the_requests_and_the_surplus_goes(tmp_path: Path) -> None:
    async def story(pool: Pool) -> None:
        async with pool.reserve(ECHO, "speak", workers=2) as info:
            assert info.slots == 8
            [row] = pool.loaded()
            assert row["workers"] == 2 and not await_idle(pool)
            streams = [pool.run(ECHO, SpeakRequest(text="100")) for _ in range(2)]
            for stream in streams:
                await anext(stream)
            assert [worker.active for worker in pool._models[ECHO].workers] == [1, 1]
            for stream in streams:
                await stream.aclose()  # type: ignore[attr-defined]
        assert pool.loaded()[0]["workers"] == 1
        with pytest.raises(Unsupported, match="cannot embedding"):
            async with pool.reserve(ECHO, "embedding"):
                pass

    with_pool(tmp_path, story)


def await_idle(pool: Pool) -> bool:
    return any(model.idle for model in pool._models.values())


def test_memory_counts_every_reserved_worker(tmp_path: Path) -> None:
    async def story(pool: Pool) -> None:
        with pytest.raises(DoesNotFit):
            async with pool.reserve(ECHO, "speak", workers=3):
                pass
        async with pool.reserve(ECHO, "speak", workers=2):
            with pytest.raises(DoesNotFit):  # what is promised is not evicted
                async with pool.reserve(ECHO, "speak", overrides={"slots": 1}):
                    pass

    with_pool(tmp_path, story, memory_limit_mb=2.5 * 330)


def test_memory_that_a_job_holds_is_counted_and_idle_models_make_room_for_it(tmp_path: Path) -> None:
    async def story(pool: Pool) -> None:
        await pool.load(ECHO)
        async with pool.hold({"ram": 600 << 20}, os.getpid()):
            assert pool.loaded() == []  # it was idle
            with pytest.raises(DoesNotFit):
                await pool.load(ECHO)
            with pytest.raises(DoesNotFit, match="The job needs about 600 MB"):
                async with pool.hold({"ram": 600 << 20}, os.getpid()):
                    pass
            async with pool.hold({"ram": 600 << 20}, os.getpid(), force=True):
                pass
        await pool.load(ECHO)

    with_pool(tmp_path, story, memory_limit_mb=800)


def test_a_card_takes_no_second_model_beside_one_in_use_and_an_idle_one_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's figures here never change, as those of a card whose model has yet to fill its cache."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", path_with_cards(tmp_path / "bin", 8000, 3000))
    monkeypatch.setenv("ECHO_WEIGHT_BYTES", str(5 << 30))
    (tmp_path / "config.json").write_text("{}")
    other = "hf:test/other"

    async def story(pool: Pool) -> None:
        async with pool.reserve(ECHO, "speak"):
            with pytest.raises(DoesNotFit, match=r"on cuda:0 and 2\d{3} MB are free") as refused:
                await pool.load(other)
            assert refused.value.details["device"] == "cuda:0"
            [row] = pool.loaded()
            assert row["model"] == ECHO and row["planned_bytes"] > 5 << 30
        async with pool.hold({"cuda:0": 4 << 30}, os.getpid()):  # a job: the idle model made room for it
            assert pool.loaded() == []
            with pytest.raises(DoesNotFit, match="on cuda:0"):
                await pool.load(other)
        await pool.load(ECHO)
        await pool.load(other)  # now the first is idle
        assert [row["model"] for row in pool.loaded()] == [other]

    with_pool(tmp_path, story, RuntimeSettings(device="cuda"))


def test_an_engine_of_the_pool_is_an_engine_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()

    def use(engines: PoolEngines) -> list[str]:
        with engines.get(ECHO, "transcribe") as engine:
            assert engine.info.architecture == "echo" and engine.info.inputs == ["text"]
            texts = [chunk.text for chunk in engine.run(CHAT, threading.Event()) if isinstance(chunk, Text)]
            request = TranscribeRequest(language=str(tmp_path / "gate"))
            heard = list(engine.run(request, threading.Event(), iter([b"abcd", b"efgh"])))
            assert isinstance(heard[-1], Segment) and heard[-1].text == f"8 {zlib.crc32(b'abcdefgh')}"
            cancel = threading.Event()
            with pytest.raises(Cancelled):
                for _ in engine.run(SpeakRequest(text="100000"), cancel):
                    cancel.set()
            with pytest.raises(Unsupported), engines.get(ECHO, "embedding"):
                pass
        return texts

    async def story(pool: Pool) -> None:
        engines = PoolEngines(pool, asyncio.get_running_loop())
        answers = await asyncio.gather(*(asyncio.to_thread(use, engines) for _ in range(3)))
        assert answers == [["x"] * 5] * 3
        await until(lambda: await_idle(pool))

    with_pool(tmp_path, story)


# --- the job process' end ------------------------------------------------------------------------------------------


def test_a_job_reaches_the_pool_over_its_socket_and_what_it_holds_is_counted(tmp_path: Path) -> None:
    async def story(pool: Pool) -> None:
        ours, theirs = socket.socketpair()
        broker = JobBroker(pool, os.getpid())
        await broker.start(ours)
        engines = JobEngines(theirs)
        blocked = threading.Event()

        def work() -> list[str]:
            with engines.get(ECHO, "speak", workers=2) as engine:
                assert engine.info.slots == 8
                sound = engine.run(SpeakRequest(text="60"), threading.Event())
                next(sound)  # type: ignore[call-overload]
                texts = [chunk.text for chunk in engine.run(CHAT, threading.Event()) if isinstance(chunk, Text)]
                assert len(list(sound)) == 59  # more than a window: the credit of what was taken comes back
                cancel = threading.Event()
                with pytest.raises(Cancelled):
                    for _ in engine.run(SpeakRequest(text="100000"), cancel):
                        cancel.set()
                with pytest.raises(Unsupported, match="no live input"):
                    engine.run(CHAT, threading.Event(), iter([b"x"]))
                blocked.set()
                return texts

        job = asyncio.create_task(asyncio.to_thread(work))
        await until(blocked.is_set)
        assert await job == ["x"] * 5
        await until(lambda: await_idle(pool) and pool.loaded()[0]["workers"] == 1)

        def refused() -> None:
            with engines.get(ECHO, "embedding"):
                pass

        with pytest.raises(Unsupported, match="cannot embedding"):
            await asyncio.to_thread(refused)

        def held() -> None:
            with engines.get(ECHO, "speak") as engine:
                blocked.clear()
                for _ in engine.run(SpeakRequest(text="1000000"), threading.Event()):
                    pass

        job = asyncio.create_task(asyncio.to_thread(held))  # type: ignore[arg-type]
        await until(lambda: not blocked.is_set())
        theirs.shutdown(socket.SHUT_RDWR)  # the job process dies: what it held is free, its requests are cancelled
        await until(lambda: await_idle(pool))
        with pytest.raises(Unavailable):
            await job

    with_pool(tmp_path, story)
