"""Predicted against measured memory of llama.cpp workers: `python benchmarks/plan_error.py > benchmarks/results/plan.md`.

Each row is a process of its own that imports what a worker imports, loads the starter, fills one slot to its context
with different prompts until the memory for kept ones is full, decodes in every slot at once and reports its peak.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STARTER = "starter:smollm2-135m-instruct"
# quantisation, tokens a slot, slots, MB for prompts kept
CONFIGURATIONS = [
    ("", 128, 1, 0), ("", 256, 1, 0), ("", 512, 1, 0), ("", 1024, 1, 0), ("", 2048, 1, 0), ("", 512, 4, 0),
    ("", 512, 8, 0), ("", 1024, 4, 0), ("", 256, 2, 16), ("q8_0", 512, 1, 0), ("q8_0", 256, 4, 0),
    ("q8_0", 512, 2, 32),
]  # fmt: skip


def measure(quant: str, context: int, slots: int, cache_mb: int) -> dict[str, float]:
    """Run in a fresh process: plan, load, work, and report bytes."""
    import threading

    import ninestory.serving.worker  # noqa: F401  what every worker has in memory
    from ninestory.core.config import RuntimeSettings
    from ninestory.core.paths import Home
    from ninestory.models.resolve import resolve
    from ninestory.runtimes.load import load_engine
    from ninestory.runtimes.plan import plan
    from ninestory.runtimes.protocol import CompletionRequest, Sampling

    settings = RuntimeSettings(context=context, slots=slots, prompt_cache_mb=cache_mb, threads=1)
    model = resolve(STARTER + (f":{quant}" if quant else ""), Home.default())
    planned = plan(model, settings)
    before = _memory()
    engine = load_engine(model, settings)

    def complete(ids: list[int], tokens: int) -> None:
        request = CompletionRequest(prompt=ids, max_tokens=tokens, sampling=Sampling(temperature=0.0))
        for _ in engine.run(request, threading.Event()):
            pass

    prompts = 2 + round(cache_mb * 1e6 / (planned.cache_bytes - cache_mb * 1e6) * slots)  # until the kept ones are full
    for start in range(1000, 1000 + 37 * prompts, 37):
        complete([start + (7 * i) % 5000 for i in range(context - 12)], 4)
    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(lambda slot: complete([2000 + slot, *range(3000, 3040)], 8), range(slots)))
    after = _memory()
    engine.close()
    return {**planned.as_dict(), "total": planned.total_bytes, "base": before["VmRSS"], **after}


def _memory() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(fields)}


def main() -> None:
    print(f"# Memory plan against measured peaks\n\n{_processor()}; peak = VmHWM, MB of 10^6 bytes.\n")
    print("| quant | context | slots | kept | process | weights | cache | activations | planned | peak | error |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    errors = []
    for quant, context, slots, cache_mb in CONFIGURATIONS:
        command = [sys.executable, __file__, json.dumps([quant, context, slots, cache_mb])]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        error = row["total"] / row["VmHWM"] - 1
        errors.append(error)
        parts = [row[f"{part}_bytes"] for part in ("process", "weight", "cache", "activation")]
        cells = [f"{n / 1e6:.0f}" for n in (*parts, row["total"], row["VmHWM"])]
        print(
            f"| {quant or 'q4_1'} | {context} | {slots} | {cache_mb} | {' | '.join(cells)} | {error:+.1%} |", flush=True
        )
        print(f"base {row['base'] / 1e6:.0f} anon {row['RssAnon'] / 1e6:.0f} file {row['RssFile'] / 1e6:.0f}",
              file=sys.stderr)  # fmt: skip
    print(f"\nLargest error {max(errors, key=abs):+.1%}; mean of absolutes {sum(map(abs, errors)) / len(errors):.1%}.")


def _processor() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.machine()}, {len(names)} processors"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*json.loads(sys.argv[1])), default=str))
    else:
        main()
