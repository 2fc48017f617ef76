"""Embedding with several requests at a time: for an engine whose workers share them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ninestory.floors.retrieval.embedder import Embedder

TEXTS_A_TASK = 16


class Embedders:
    """Hands texts to an embedder in tasks of sixteen, as many tasks at a time as its engine has processes."""

    def __init__(self, embedder: Embedder, processes: int) -> None:
        self.processes = processes
        self._embedder = embedder
        self._threads = ThreadPoolExecutor(processes)  # each waits for one process

    def __enter__(self) -> Embedders:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def submit(self, texts: Sequence[str]) -> list[Future[NDArray[np.float32]]]:
        """Unit vectors [≤ 16, d] of passages, sixteen texts a task, in their order.

        Raises (the futures):
            NinestoryError: what the engine raised; `worker_died` when one of its processes ended.
        """
        tasks = [texts[first : first + TEXTS_A_TASK] for first in range(0, len(texts), TEXTS_A_TASK)]
        return [self._threads.submit(self._embedder.passages, task) for task in tasks]
