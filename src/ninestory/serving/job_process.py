"""The server's jobs run in one process of their own, started when there is work and ended when there has been none.

A job that eats all memory or crashes in native code takes that process; its row's lease is ended (it runs out by
itself when the server died too), and the next process goes on from the checkpoint. `python -m ninestory.serving.job_process` is that process; its settings come on
its standard input, since they hold a token, and its models over a socket from the server's pool.
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
from pathlib import Path

import orjson

from ninestory.core.config import HubSettings, RuntimeSettings, Settings
from ninestory.core.errors import NinestoryError
from ninestory.core.logs import set_up_logs
from ninestory.core.paths import Home
from ninestory.core.state import State
from ninestory.jobs.runner import JobRunner
from ninestory.jobs.store import JobStore
from ninestory.serving.job_broker import JobBroker
from ninestory.serving.job_engines import JobEngines
from ninestory.serving.job_kinds import KINDS, works
from ninestory.serving.pool import Pool

POLL_SECONDS = 0.5
IDLE_SECONDS = 20.0
STOP_SECONDS = 5.0

log = logging.getLogger("ninestory.jobs")


class JobProcess:
    """Keeps the process alive while there is work. `start` in the event loop's (the main) thread."""

    def __init__(self, store: JobStore, home: Home, settings: Settings, pool: Pool) -> None:
        self._store, self._home, self._settings, self._pool = store, home, settings, pool
        self._broker: JobBroker | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._holder = ""
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._watch = asyncio.create_task(self._keep_alive())

    async def close(self) -> None:
        """Stop the running job in good order: its row goes back to the queue."""
        if self._watch:
            self._watch.cancel()
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        for _ in range(int(STOP_SECONDS / 0.05)):
            if process.poll() is not None:
                return
            await asyncio.sleep(0.05)
        process.kill()
        process.wait()

    async def _keep_alive(self) -> None:
        while True:
            try:
                if self._process is not None and self._process.poll() is not None:
                    self._store.end_leases(self._holder)
                    self._process = None
                if self._process is None and self._store.waiting(KINDS):
                    self._process = await self._spawn()
            except (NinestoryError, OSError) as fault:  # a full disk, no memory to fork: jobs wait until there is
                log.warning("the job process cannot be started: %s", fault)
            await asyncio.sleep(POLL_SECONDS)

    async def _spawn(self) -> subprocess.Popen[bytes]:
        """From the main thread: the kernel's parent-death signal fires when the spawning thread ends."""
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-m", "ninestory.serving.job_process", str(os.getpid()), str(theirs.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        assert process.stdin is not None
        self._holder = secrets.token_hex(8)
        spec = {
            "home": str(self._home.root),
            "hub": dataclasses.asdict(self._settings.hub),
            "runtime": dataclasses.asdict(self._settings.runtime),
            "holder": self._holder,
        }
        process.stdin.write(orjson.dumps(spec))
        process.stdin.close()
        self._broker = JobBroker(self._pool)
        await self._broker.start(ours)
        return process


def main() -> None:
    from ninestory.core.process import die_with_parent

    die_with_parent(int(sys.argv[1]))
    spec = orjson.loads(sys.stdin.buffer.read())
    home = Home(Path(spec["home"]))
    set_up_logs("info", as_json=False)
    settings = Settings(hub=HubSettings(**spec["hub"]), runtime=RuntimeSettings(**spec["runtime"]))
    engines = JobEngines(socket.socket(fileno=int(sys.argv[2])))
    runner = JobRunner(JobStore(State(home.state_db), holder=spec["holder"]), works(home, settings, engines))
    signal.signal(signal.SIGTERM, lambda *_: runner.stop())
    runner.run_until_idle(IDLE_SECONDS)


if __name__ == "__main__":
    main()
