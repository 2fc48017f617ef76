"""The gateway against llama.cpp's own bare server on the same file and threads, in turn, in one run.

    python benchmarks/serving.py [--rounds 3] [--tokens 96]

Prints Markdown: tokens/s and their ratio for one stream and eight, added time to the first token, start-up, memory and
the two kill latencies. Loopback only; ends by itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SLOTS, CONTEXT = 8, 512
PROMPT = "Write a long story about a lighthouse keeper who finds a map."
BARE = f"""
import sys, time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path = sys.argv[1]
p.n_ctx, p.n_parallel, p.kv_unified = {CONTEXT * SLOTS}, {SLOTS}, False
p.n_batch = p.n_ubatch = 256
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.cache_ram_mib, p.warmup, p.verbosity, p.ui = 128, False, -1, False
s = xllamacpp.Server(p)
print(s.listening_address, flush=True)
time.sleep(10**6)
"""


def post(port: int, body: dict[str, Any]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def get(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def request_body(model: str, tokens: int, prompt: str, seed: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0.8,
        "seed": seed,
        "stream": True,
        "logit_bias": {"2": -100},  # never the end of the turn
    }


def has_text(line: bytes) -> bool:
    return b'"content":"' in line and b'"content":""' not in line


def together(port: int, model: str, streams: int, tokens: int, salt: str) -> tuple[float, float]:
    """(tokens/s of `streams` requests that start at once, from the sending to the last token; median seconds to the
    first). The prompts are counted in: who answers one stream early mixes its decoding with the prompts of the others,
    and a rate from the first token on would hold that against it.
    """
    results: list[tuple[float, int]] = []
    began = time.perf_counter()

    def one(i: int) -> None:
        first, count = 0.0, 0
        for line in post(port, request_body(model, tokens, f"{salt}{i} {PROMPT}", i)):
            if has_text(line):
                first = first or time.perf_counter() - began
                count += 1
        results.append((first, count))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    return sum(count for _, count in results) / seconds, statistics.median(first for first, _ in results)


def start_bare(path: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, "-c", BARE, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline().strip().rstrip("/").rsplit(":", 1)[1])


def start_gateway(home: str) -> tuple[subprocess.Popen[str], int, float]:
    """The process, its port, and seconds until /health answered."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "ninestory", "--log-level", "error", "serve", "--port", "0", "--threads", "1"]
    command += ["--slots", str(SLOTS), "--context", str(CONTEXT)]
    environ = {**os.environ, "NINESTORY_HOME": home}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    port = int(process.stdout.readline().split("http://")[1].split()[0].rsplit(":", 1)[1])
    while True:
        try:
            get(port, "/health")
            return process, port, time.perf_counter() - began
        except OSError:
            time.sleep(0.01)


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds_of_help() -> float:
    """Of a warm `ninestory --help`, with byte code on disk."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "ninestory", "--help"]
        subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times[1:])


def compare(name: str, path: str, model: str, port: int, rounds: int, tokens: int) -> None:
    """Rows of the table: one stream and eight, bare and gateway in turn, the first round uncounted."""
    bare, bare_port = start_bare(path)
    try:
        for streams in (1, SLOTS):
            pairs = []
            for round_ in range(rounds + 1):
                at_bare = together(bare_port, model, streams, tokens, f"{round_}")
                at_gateway = together(port, model, streams, tokens, f"{round_}")
                pairs.append((at_bare, at_gateway))
            rates = [(b[0], g[0]) for b, g in pairs[1:]]
            added = statistics.median(1000 * (g[1] - b[1]) for b, g in pairs[1:])
            ratio = statistics.median(g / b for b, g in rates)
            medians = [statistics.median(column) for column in zip(*rates, strict=True)]
            print(
                f"| {name} | {streams} | {medians[0]:.1f} | {medians[1]:.1f} | {ratio:.3f} | {added:+.1f} ms |",
                flush=True,
            )
    finally:
        bare.kill()


def kill_latency(port: int, model: str) -> float:
    """Milliseconds from `kill -9` of the worker to the client's error event."""
    response = post(port, request_body(model, 400, PROMPT, 0))
    for line in response:
        if has_text(line):
            break
    pid = next(row["pid"] for row in get(port, "/ninestory/v1/ps")["data"] if row["model"] == model)
    killed = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    for line in response:
        if b'"error"' in line:
            return 1000 * (time.perf_counter() - killed)
    raise AssertionError("no error event came")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    arguments = parser.parse_args()
    from ninestory.core.paths import Home
    from ninestory.models.resolve import resolve

    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in cpuinfo if "model name" in line), "unknown")
    print(
        f"Processor: {processor}, {os.cpu_count()} cores; one llama.cpp thread; load at start {os.getloadavg()[0]:.1f}\n"
    )
    print(f"- `ninestory --help`: {cpu_seconds_of_help():.3f} CPU-s")
    home = tempfile.mkdtemp()
    process, port, seconds = start_gateway(home)
    print(
        f"- /health after {seconds:.2f} s (wall)\n- gateway without a model: {resident_mb(process.pid):.0f} MB resident\n"
    )
    print("| file | streams | bare tokens/s | gateway tokens/s | ratio | first token |\n|---|---:|---:|---:|---:|---:|")
    model = "starter:smollm2-135m-instruct"
    try:
        for name, reference in (("Q4_1", model), ("Q8_0", f"{model}:q8_0")):
            path = str(resolve(reference, Home(Path(home))).path)
            compare(name, path, reference, port, arguments.rounds, arguments.tokens)
        latencies = sorted(kill_latency(port, model) for _ in range(3))
        print(f"\n- worker killed in mid-stream: error after {latencies[1]:.1f} ms (of three: {latencies})")
        together(port, model, 1, 4, "again")
        print(f"- gateway after all that: {resident_mb(process.pid):.0f} MB resident")
        worker = next(row["pid"] for row in get(port, "/ninestory/v1/ps")["data"] if row["model"] == model)
        killed = time.perf_counter()
        process.kill()
        while Path(f"/proc/{worker}").exists() and ") Z " not in Path(f"/proc/{worker}/stat").read_text():
            time.sleep(0.002)
        print(f"- gateway killed: worker gone after {1000 * (time.perf_counter() - killed):.0f} ms")
    finally:
        process.kill()


if __name__ == "__main__":
    main()
