"""The server's jobs run in processes of their own, one a running job, started when there is work and ended when idle.

A kind of job belongs to a lane, and a lane has so many processes: an ingest need not wait for a day of tuning. A job
that eats all memory or crashes in native code takes its process only; its row's lease is ended (it runs out by itself
when the server died too), and the next process goes on from the checkpoint.

`python -m ninestory.serving.job_process` is such a process; the server's settings come on its standard input, since
they hold a token, and models of the server's pool over a socket.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from ninestory.core.config import Settings, settings_from_dict
from ninestory.core.errors import NinestoryError
from ninestory.core.logs import set_up_logs
from ninestory.core.paths import Home
from ninestory.core.process import die_with_parent
from ninestory.core.state import State
from ninestory.jobs.handlers import job_lanes, load_job_handlers, planned_memory
from ninestory.jobs.runner import JobRunner, context_maker
from ninestory.jobs.store import Job, JobStore
from ninestory.runtimes.protocol import JobContext
from ninestory.serving.job_broker import JobBroker
from ninestory.serving.job_engines import JobEngines
from ninestory.serving.pool import Pool

POLL_SECONDS = 0.5
STOP_SECONDS = 5.0

log = logging.getLogger("ninestory.jobs")


@dataclass(frozen=True)
class Lane:
    """Jobs that run beside those of other lanes.

    Attributes:
        processes: jobs of the lane that run together.
        idle_seconds: how long a process waits for the next job; 0 where a job leaves much memory behind.
    """

    processes: int
    idle_seconds: float


LANES = {"long": Lane(1, 0.0), "short": Lane(2, 20.0), "batch": Lane(1, 20.0), "agent": Lane(4, 20.0)}


@dataclass(frozen=True)
class _Process:
    """A running process; the owners of its claims begin with `holder`."""

    popen: subprocess.Popen[bytes]
    holder: str
    broker: JobBroker


class JobProcesses:
    """Keeps as many processes alive as there is work for. `start` in the event loop's (the main) thread."""

    def __init__(self, store: JobStore, home: Home, settings: Settings, pool: Pool) -> None:
        self._store, self._home, self._settings, self._pool = store, home, settings, pool
        self._processes: dict[str, list[_Process]] = {name: [] for name in LANES}
        self._kinds: dict[str, list[str]] = {name: [] for name in LANES}
        for kind, lane in job_lanes().items():
            self._kinds[lane].append(kind)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._watch = asyncio.create_task(self._keep_alive())

    async def close(self) -> None:
        """Stop the running jobs in good order: their rows go back to the queue."""
        if self._watch:
            self._watch.cancel()
        processes = [process.popen for lane in self._processes.values() for process in lane]
        for process in processes:
            process.terminate()
        for _ in range(int(STOP_SECONDS / 0.05)):
            if all(process.poll() is not None for process in processes):
                return
            await asyncio.sleep(0.05)
        for process in processes:
            process.kill()
            process.wait()

    async def _keep_alive(self) -> None:
        while True:
            for lane in LANES:
                try:
                    await self._tend(lane)
                except (NinestoryError, OSError) as fault:  # a full disk, no memory to fork: jobs wait until there is
                    log.warning("no process can be started for %s jobs: %s", lane, fault)
            await asyncio.sleep(POLL_SECONDS)

    async def _tend(self, lane: str) -> None:
        """Clear away the processes that have ended, and start one where a job waits that no idle process will take."""
        alive = self._processes[lane]
        for process in [process for process in alive if process.popen.poll() is not None]:
            self._store.end_leases(process.holder)
            alive.remove(process)
        if len(alive) == LANES[lane].processes or not (claimable := self._store.count_claimable(self._kinds[lane])):
            return
        idle = sum(not self._store.is_held(process.holder) for process in alive)
        if claimable > idle:
            alive.append(await self._spawn(lane))

    async def _spawn(self, lane: str) -> _Process:
        """From the main thread: the kernel's parent-death signal fires when the spawning thread ends."""
        ours, theirs = socket.socketpair()
        threads = self._settings.runtime.threads
        popen = subprocess.Popen(
            [sys.executable, "-m", "ninestory.serving.job_process", lane, str(os.getpid()), str(theirs.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else None,  # before a job imports torch
        )
        theirs.close()
        assert popen.stdin is not None
        holder = secrets.token_hex(8)
        spec = {
            "home": str(self._home.root),
            "settings": dataclasses.asdict(self._settings),
            "kinds": self._kinds[lane],
            "holder": holder,
        }
        popen.stdin.write(orjson.dumps(spec))
        popen.stdin.close()
        broker = JobBroker(self._pool, popen.pid)
        await broker.start(ours)
        return _Process(popen, holder, broker)


def main() -> None:
    """What a job process runs: jobs of one lane, one after another, until there has been none for a while."""
    lane, parent, connection = sys.argv[1], int(sys.argv[2]), socket.socket(fileno=int(sys.argv[3]))
    die_with_parent(parent)
    spec = orjson.loads(sys.stdin.buffer.read())
    home, settings = Home(Path(spec["home"])), settings_from_dict(spec["settings"])
    set_up_logs(settings.log_level, settings.log_json)
    engines = JobEngines(connection)

    @contextmanager
    def reserve(job: Job, context: JobContext) -> Iterator[None]:
        """Hold the memory that the job will take in this process, in the server's count."""
        needed = planned_memory(job.kind, job.params, context)
        with engines.reserve_memory(needed, force=bool(job.params.get("force"))):
            yield

    state = State(home.state_db)
    runner = JobRunner(
        JobStore(state, holder=spec["holder"]),
        load_job_handlers(spec["kinds"]),
        context_maker(home, settings, engines, state),
        reserve,
    )
    signal.signal(signal.SIGTERM, lambda *_: runner.stop())
    runner.run_until_idle(LANES[lane].idle_seconds)


if __name__ == "__main__":
    main()
