"""Mixed load on one gateway, with clients that read slowly and clients that vanish: does its memory stay flat?

    python benchmarks/serving_soak.py [--seconds 1800]

Prints the gateway's resident memory at ten moments and what the clients saw. Loopback only; ends by itself.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter

from serving import PROMPT, get, post, request_body, resident_mb, start_gateway

MODEL = "starter:smollm2-135m-instruct"


def client(port: int, habit: str, until: float, seen: Counter[str]) -> None:
    """Ask until the time is over: `reads` takes all, `slow` takes a line each 0.1 s, `vanishes` leaves after three."""
    turn = 0
    while time.monotonic() < until:
        turn += 1
        response = post(port, request_body(MODEL, 24, f"{habit} {turn} {PROMPT}", turn))
        for taken, line in enumerate(response):
            seen["errors"] += b'"error"' in line
            if habit == "slow":
                time.sleep(0.1)
            if habit == "vanishes" and taken > 3:
                break
        response.close()
        seen[habit] += 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1800)
    seconds = parser.parse_args().seconds
    process, port, _ = start_gateway(tempfile.mkdtemp())
    seen: Counter[str] = Counter()
    try:
        post(port, request_body(MODEL, 2, "warm", 0)).read()
        until = time.monotonic() + seconds
        habits = ("reads", "reads", "slow", "vanishes", "vanishes")
        threads = [threading.Thread(target=client, args=(port, habit, until, seen)) for habit in habits]
        for thread in threads:
            thread.start()
        for tenth in range(10):
            time.sleep(seconds / 10)
            print(f"- {seconds * (tenth + 1) / 10:.0f} s: gateway {resident_mb(process.pid):.1f} MB", flush=True)
        for thread in threads:
            thread.join()
        running = sum(row["requests"] for row in get(port, "/ninestory/v1/ps")["data"])
        print(f"- requests: {dict(seen)}; still running at the end: {running}")
    finally:
        process.kill()


if __name__ == "__main__":
    main()
