"""How long a cancelled request holds its slot, in decoding and in prefill: engine in process, one slot, one thread.

    python benchmarks/cancel.py [--rounds 7]

With one slot a second request cannot start before the first is gone. So: cancel the first, ask at once for one token
of a short prompt, and take away what that token costs on an idle engine. Prints milliseconds beside a decode step's.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled
from ninestory.core.paths import Home
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import CompletionRequest, Engine, Prefill, Sampling, Text, Usage

CONTEXT, END_OF_TURN = 2048, 2


def one_token(engine: Engine, salt: int) -> float:
    """Seconds of a one-token answer to a short prompt that no cache holds."""
    began = time.perf_counter()
    list(engine.run(CompletionRequest(prompt=f"{salt} a short prompt", max_tokens=1), threading.Event()))
    return time.perf_counter() - began


def held(engine: Engine, salt: int, prompt: str, wait_for: type) -> float:
    """Seconds the slot stays taken after a cancel that comes with the first chunk of type `wait_for`."""
    alone = statistics.median(one_token(engine, salt * 10 + i) for i in range(3))
    cancel, started = threading.Event(), threading.Event()
    sampling = Sampling(logit_bias={END_OF_TURN: -100.0})

    def first() -> None:
        try:
            for chunk in engine.run(CompletionRequest(prompt=f"{salt} {prompt}", sampling=sampling), cancel):
                if isinstance(chunk, wait_for):
                    started.set()
        except Cancelled:
            pass

    thread = threading.Thread(target=first)
    thread.start()
    started.wait(60)
    time.sleep(0.05)  # somewhere inside a step
    cancel.set()
    taken = one_token(engine, salt * 10 + 9)
    thread.join()
    return taken - alone


def decode_step(engine: Engine) -> float:
    chunks = engine.run(CompletionRequest(prompt="Once upon a time", max_tokens=60), threading.Event())
    usage = next(chunk for chunk in chunks if isinstance(chunk, Usage))
    return usage.decode_seconds / max(1, usage.completion_tokens - 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    settings = RuntimeSettings(threads=1, slots=1, context=CONTEXT)
    engine = load_engine(resolve("starter:smollm2-135m-instruct", Home.default()), settings)
    try:
        print(f"A decode step: {1000 * decode_step(engine):.1f} ms")
        for name, prompt, kind in (("decoding", "Once upon a time", Text), ("prefill", "word " * 1500, Prefill)):
            times = sorted(1000 * held(engine, i + 1, prompt, kind) for i in range(rounds))
            print(f"Cancelled in {name}: slot free after {statistics.median(times):.1f} ms (most {times[-1]:.1f} ms)")
    finally:
        engine.close()


if __name__ == "__main__":
    main()
