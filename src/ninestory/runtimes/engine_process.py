"""One engine in several processes of its own, for work that one process cannot spread over the processors.

`python -m ninestory.runtimes.engine_process HOME MODEL SETTINGS` is one of them: a line of JSON (a request) in, a line
for each chunk out, then `{"end": true}` or an error. It ends when its input does, so none outlives its parent.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import orjson
import pydantic

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import NinestoryError, Unavailable, from_dict
from ninestory.core.paths import Home
from ninestory.runtimes.dispatch import refuse_feed
from ninestory.runtimes.protocol import REQUEST_KINDS, Chunk, Engine, Feed, Request, chunk_from_dict


class EngineProcesses:
    """Copies of one model as one engine: each takes a request at a time, the next free one the next request.

    Args:
        local: the same model in this process, which counts tokens: that must not wait for a process.

    Raises:
        NinestoryError: what loading the model raised. Unavailable: a process died meanwhile.
    """

    def __init__(self, home: Home, model: str, settings: RuntimeSettings, processes: int, local: Engine) -> None:
        own = json.dumps(dataclasses.asdict(dataclasses.replace(settings, threads=1)))
        command = [sys.executable, "-m", "ninestory.runtimes.engine_process", str(home.root), model, own]
        pipe = subprocess.PIPE
        self.processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(processes)]
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._local = local
        self.info = dataclasses.replace(local.info, slots=processes)
        try:
            for process in self.processes:
                _line(process, model)  # loaded
                self._free.put(process)
        except NinestoryError:
            self.close()
            raise

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        if feed is not None:
            refuse_feed(self.info)
        return self._local.run(request, cancel) if request.kind == "tokenize" else self._run(request)

    def _run(self, request: Request) -> Iterator[Chunk]:
        """What was begun is read to its end, so that the next answer is the next request's."""
        payload = orjson.dumps({"kind": request.kind, **dataclasses.asdict(request)}, option=orjson.OPT_NON_STR_KEYS)
        process = self._free.get()
        ended = False
        try:
            assert process.stdin is not None
            try:
                process.stdin.write(payload + b"\n")
                process.stdin.flush()
            except BrokenPipeError:
                ended = True
                raise _died(process, self.info.model) from None
            while not (ended := "end" in (line := _line(process, self.info.model))):
                yield chunk_from_dict(line)
        except NinestoryError:
            ended = True
            raise
        finally:
            while not ended:
                ended = "end" in _line(process, self.info.model)
            self._free.put(process)

    def close(self) -> None:
        """End the processes. Idempotent."""
        for process in self.processes:
            process.kill()
            process.wait()
        self._local.close()


def _line(process: subprocess.Popen[bytes], model: str) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise _died(process, model)
    told: dict[str, Any] = orjson.loads(line)
    if "error" in told:
        raise from_dict(told["error"])
    return told


def _died(process: subprocess.Popen[bytes], model: str) -> Unavailable:
    return Unavailable(
        f"A process of {model} has ended (status {process.poll()}).",
        hint="It may have run out of memory: use fewer processes (runtime.ingest_processes = 1), and run it again.",
        hint_zh="可能是内存不足：请减少进程数（runtime.ingest_processes = 1）后重新运行。",
        code="worker_died",
    )


def main() -> None:
    """What a process runs."""
    from ninestory.models.resolve import resolve
    from ninestory.runtimes.load import load_engine

    home, model, settings = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like an answer

    def answer(told: Any) -> None:
        answers.write(orjson.dumps(told) + b"\n")
        answers.flush()

    try:
        engine = load_engine(resolve(model, Home(Path(home))), RuntimeSettings(**json.loads(settings)))
    except NinestoryError as error:
        answer({"error": error.as_dict()})
        return
    answer({"loaded": True})
    adapters: dict[str, pydantic.TypeAdapter[Any]] = {
        kind: pydantic.TypeAdapter(registered.request) for kind, registered in REQUEST_KINDS.items()
    }
    for line in sys.stdin.buffer:
        try:
            data = orjson.loads(line)
            request = adapters[data.pop("kind")].validate_python(data)
            for chunk in engine.run(request, threading.Event()):
                answer(chunk.wire())
            answer({"end": True})
        except NinestoryError as error:
            answer({"error": error.as_dict()})


if __name__ == "__main__":
    main()
