"""The loop: requests join and leave a running batch, in one thread that owns the model.

Each pass takes one token of every request that is answering and one chunk of the prompt of at most one that joins,
because mixing the two costs less than running them apart, and a long prompt must not hold up the others.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from dataclasses import dataclass

import torch

from ninestory.core.errors import Cancelled, Unavailable
from ninestory.runtimes.torch.answer import Job
from ninestory.runtimes.torch.decoder import Decoder
from ninestory.runtimes.torch.slots import CHUNK, Slots
from ninestory.runtimes.torch.step import Row


@dataclass
class _Running:
    job: Job
    slot: int
    done: int  # tokens that stand in the slot
    next: int = -1  # the token to feed, once the prompt is computed

    @property
    def joining(self) -> bool:
        return self.done < len(self.job.prompt)


class Batch:
    """Runs jobs on a decoder. `submit` may be called from any thread.

    Args:
        slots: requests that run together.
        salt: what cached prompts depend on besides their tokens.
        threads: of the matrix products.
    """

    def __init__(self, decoder: Decoder, *, slots: int, threads: int, salt: bytes = b"") -> None:
        self._decoder, self._slots = decoder, Slots(slots, decoder.store, salt)
        self._arrivals: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None wakes the loop to end
        self._waiting: deque[Job] = deque()
        self._running: list[_Running] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, args=(threads,), name="torch-batch", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        if self._closed.is_set():
            raise _closing()
        self._arrivals.put(job)

    def close(self) -> None:
        """End every job and the thread. Idempotent."""
        self._closed.set()
        self._arrivals.put(None)
        self._thread.join()

    def _loop(self, threads: int) -> None:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            while not self._closed.is_set():
                self._receive()
                try:
                    self._drop_cancelled()
                    self._admit()
                    if self._running:
                        self._pass()
                except Exception as error:  # nobody may be left waiting for a thread that has died
                    self._fail_all(error)
        self._receive()
        self._fail_all(_closing())

    def _fail_all(self, error: Exception) -> None:
        for running in list(self._running):
            self._leave(running, error)
        while self._waiting:
            self._waiting.popleft().done(error)

    def _receive(self) -> None:
        """Take what has arrived; wait for it when there is nothing else to do."""
        idle = not (self._running or self._waiting or self._closed.is_set())
        while True:
            try:
                job = self._arrivals.get(block=idle)
            except queue.Empty:
                return
            idle = False
            if job is not None:
                self._waiting.append(job)

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._waiting if job.cancelled()]:
            self._waiting.remove(job)
            job.done(Cancelled("The request was cancelled."))
        for running in [running for running in self._running if running.job.cancelled()]:
            self._leave(running, Cancelled("The request was cancelled."))

    def _admit(self) -> None:
        while self._waiting and self._slots.free:
            job = self._waiting[0]
            prefix = job.prompt[: job.first + 1] if self._decoder.chunked else []
            lease = self._slots.take(prefix)
            if lease is None:
                return
            self._running.append(_Running(self._waiting.popleft(), lease.slot, lease.reused))
            job.admitted(lease.reused)

    def _pass(self) -> None:
        """One forward pass, and what each of its requests makes of it."""
        batch, rows, ids = self._rows()
        hidden = self._decoder.forward(torch.tensor(ids, device=self._decoder.device), rows)
        wanted = [max(0, running.job.first - row.start) for running, row in zip(batch, rows, strict=True)]
        logits = self._logits(hidden, rows, wanted)
        for running, row, own in zip(batch, rows, logits, strict=True):
            try:
                self._advance(running, row, own)
            except Exception as error:  # a fault of one request is not its neighbours'
                self._leave(running, error)

    def _rows(self) -> tuple[list[_Running], list[Row], list[int]]:
        """Who takes part in this pass, their rows and the packed tokens."""
        batch = [running for running in self._running if not running.joining]
        rows = [Row(running.slot, running.done, 1) for running in batch]
        ids = [running.next for running in batch]
        if joining := next((running for running in self._running if running.joining), None):
            left = len(joining.job.prompt) - joining.done
            n = min(CHUNK, left) if self._decoder.chunked else left
            batch.append(joining)
            rows.append(Row(joining.slot, joining.done, n))
            ids += joining.job.prompt[joining.done : joining.done + n]
        return batch, rows, ids

    def _logits(self, hidden: torch.Tensor, rows: list[Row], wanted: list[int]) -> list[torch.Tensor]:
        """Per row float32 [k, vocabulary] of its tokens from `wanted` on; the head sees no others."""
        places: list[int] = []
        counts, at = [], 0
        for row, first in zip(rows, wanted, strict=True):
            places += range(at + min(first, row.n), at + row.n)
            counts.append(max(0, row.n - first))
            at += row.n
        if not places:
            return [hidden[:0] for _ in rows]
        chosen = hidden[torch.tensor(places, device=hidden.device)]
        return list(self._decoder.logits(chosen).split(counts))

    def _advance(self, running: _Running, row: Row, logits: torch.Tensor) -> None:
        job, was_joining = running.job, running.joining
        running.done = row.end
        if was_joining:
            if self._decoder.chunked:
                self._slots.prefilled(running.slot, job.prompt, running.done)
            job.prefilled(running.done)
        token = job.accept(logits) if len(logits) else None
        if running.joining:
            return
        if token is None:
            self._leave(running, None)
        else:
            running.next = token

    def _leave(self, running: _Running, error: Exception | None) -> None:
        self._running.remove(running)
        self._slots.give_back(running.slot)
        running.job.done(error)


def _closing() -> Unavailable:
    return Unavailable(
        "The model is being unloaded.", hint="Send the request again.", hint_zh="请重新发送请求。", retry_after=1
    )
