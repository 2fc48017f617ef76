"""Embedding in several processes: one text a run on one thread, so that more processors mean more processes.

`python -m ninestory.floors.retrieval.embedding_pool HOME MODEL SETTINGS` is one of them: a line of JSON (texts) in, a
line of JSON and the vectors' bytes out. It ends when its input does, so none outlives a killed ingest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import NinestoryError, from_dict
from ninestory.core.paths import Home

TEXTS_A_TASK = 16


class EmbeddingPool:
    """`processes` copies of one embedding model, of about 450 MB each with the starter."""

    def __init__(self, home: Home, model: str, settings: RuntimeSettings, processes: int) -> None:
        self.processes = processes
        own = json.dumps(asdict(replace(settings, threads=1)))
        command = [sys.executable, "-m", "ninestory.floors.retrieval.embedding_pool", str(home.root), model, own]
        pipe = subprocess.PIPE
        self._children = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(processes)]
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(processes)  # each waits for one process

    def __enter__(self) -> EmbeddingPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.kill()
            child.wait()
        self._threads.shutdown(cancel_futures=True)

    def submit(self, texts: Sequence[str]) -> list[Future[NDArray[np.float32]]]:
        """Unit vectors [≤ 16, d] of passages, sixteen texts a task, in their order.

        Raises (the futures):
            NinestoryError: `embedder_died`, or what the model raised.
        """
        tasks = [texts[first : first + TEXTS_A_TASK] for first in range(0, len(texts), TEXTS_A_TASK)]
        return [self._threads.submit(self._embed, task) for task in tasks]

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        child = self._idle.get()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(texts).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
            told = json.loads(line) if line else None
            data = child.stdout.read(4 * told["shape"][0] * told["shape"][1]) if told and "shape" in told else b""
        except BrokenPipeError:
            told = None
        finally:
            self._idle.put(child)
        if told is None:
            raise NinestoryError(
                f"A process that embeds has ended (status {child.poll()}).",
                hint="It may have run out of memory: set runtime.ingest_processes = 1, and run the same command again.",
                hint_zh="可能是内存不足：请设置 runtime.ingest_processes = 1 后重新运行同一命令。",
                code="embedder_died",
            )
        if "error" in told:
            raise from_dict(told["error"])
        return np.frombuffer(data, dtype=np.float32).reshape(told["shape"])


def main() -> None:
    from ninestory.floors.retrieval.embedder import Embedder
    from ninestory.models.resolve import resolve
    from ninestory.runtimes.load import load_engine

    home, model, settings = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    embedder = Embedder(load_engine(resolve(model, Home(Path(home))), RuntimeSettings(**json.loads(settings))))
    for line in sys.stdin.buffer:
        told: dict[str, Any]
        data = b""
        try:
            vectors = embedder.passages(json.loads(line))
            told, data = {"shape": vectors.shape}, vectors.astype(np.float32).tobytes()
        except NinestoryError as error:
            told = {"error": error.as_dict()}
        answers.write(json.dumps(told).encode() + b"\n" + data)
        answers.flush()


if __name__ == "__main__":
    main()
