"""One LLaMA shape decoded by every contestant: the torch engine, transformers' `generate`, CTranslate2, bare products.

    python benchmarks/decoding.py [--rounds 5] [--tokens 32] [--context 64] [--ctranslate2 VENV]

58 million random weights, the same for all, one thread, processor time. Each contestant is a process of its own,
because MKL's strict mode, which the engine asks for, holds for a whole process and slows the others down; in each round
all take their turn, so that a busy machine slows them alike. Every figure is decode only: the prompt's passes are apart.
CTranslate2 lives in a virtual environment that this script makes (with pip, in a temporary folder unless VENV is given).
Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS, FFN, VOCABULARY, LENGTH = 512, 8, 8, 1408, 32000, 1024
CTRANSLATE2 = "ctranslate2==4.8.5"
FLOOR, GENERATE = "weight products", "transformers generate"
CONTESTANTS = {
    FLOOR: (1,), GENERATE: (1,),
    "engine float32": (1, 8), "engine float32 fast": (1, 8), "engine bfloat16 fast": (1, 8), "engine int8": (1, 8),
    "ctranslate2 float32": (1, 8), "ctranslate2 int8": (1, 8),
}  # fmt: skip


def build() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


# --- the contestants: each gives a function (requests, context, tokens) → seconds of one step -----------------------

Measure = Callable[[int, int, int], float]


def weight_products() -> Measure:
    """One product of a vector with every weight matrix but the embedding."""
    import torch

    weights = [module.weight.detach() for module in build().modules() if isinstance(module, torch.nn.Linear)]
    vectors = [torch.ones(weight.shape[1]) for weight in weights]

    def measure(requests: int, context: int, tokens: int) -> float:
        began = time.thread_time()
        for _ in range(tokens):
            for weight, vector in zip(weights, vectors, strict=True):
                torch.mv(weight, vector)
        return (time.thread_time() - began) / tokens

    return measure


def generate() -> Measure:
    """Greedy `generate`, what one token with the same prompt costs taken away."""
    import torch

    model = build()

    def measure(requests: int, context: int, tokens: int) -> float:
        prompt, seconds = torch.arange(context)[None] + 3, []
        for count in (1, tokens + 1):
            began = time.thread_time()
            model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
            seconds.append(time.thread_time() - began)
        return (seconds[1] - seconds[0]) / tokens

    return measure


def engine(dtype: str, *, fast: bool = False) -> Measure:
    """Steps of the batching engine with its sampling; `requests` together, each at its own place."""
    from ninestory.runtimes.torch.environment import prepare

    if not fast:
        prepare()
    import torch

    from ninestory.runtimes.torch.decoder import decoder_of
    from ninestory.runtimes.torch.open import suit
    from ninestory.runtimes.torch.sampling import Rule, sample
    from ninestory.runtimes.torch.step import Row

    model = build()
    if dtype == "bfloat16":
        model = model.bfloat16()
    print(suit(model, dtype, fast=fast)[1], file=sys.stderr)
    decoder = decoder_of(model, slots=8, context=LENGTH)
    rule, generator = Rule(temperature=0.0), torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def measure(requests: int, context: int, tokens: int) -> float:
        for slot in range(requests):
            decoder.forward(torch.arange(context) + 3, [Row(slot, 0, context)])
        ids = [7] * requests
        began = time.thread_time()
        for i in range(tokens):
            rows = [Row(slot, context + i, 1) for slot in range(requests)]
            logits = decoder.logits(decoder.forward(torch.tensor(ids), rows))
            ids = [sample(row, rule, {}, generator) for row in logits]  # type: ignore[arg-type]
        return (time.thread_time() - began) / tokens

    return measure


def ctranslate2(quantisation: str) -> Measure:
    """The same weights in CTranslate2, which is asked through a process of its own environment."""
    weights = Path(os.environ["WEIGHTS"])
    if not weights.exists():
        import numpy as np

        state = {name: tensor.numpy() for name, tensor in build().state_dict().items()}
        np.savez(weights, **state)
    program = Path(__file__).with_name("decoding_ctranslate2.py")
    python = Path(os.environ["CTRANSLATE2_VENV"]) / "bin/python"
    os.execv(python, [str(python), str(program), str(weights), quantisation, str(LAYERS), str(HEADS)])


MAKE: dict[str, Callable[[], Measure]] = {
    FLOOR: weight_products,
    GENERATE: generate,
    "engine float32": lambda: engine("float32"),
    "engine float32 fast": lambda: engine("float32", fast=True),
    "engine bfloat16 fast": lambda: engine("bfloat16", fast=True),
    "engine int8": lambda: engine("int8"),
    "ctranslate2 float32": lambda: ctranslate2("float32"),
    "ctranslate2 int8": lambda: ctranslate2("int8"),
}


def serve(name: str) -> None:
    """Answer lines "requests context tokens" with seconds until the input ends."""
    measure = MAKE[name]()
    measure(1, 16, 2)
    print("ready", flush=True)
    for line in sys.stdin:
        print(measure(*map(int, line.split())), flush=True)


# --- the run ---------------------------------------------------------------------------------------------------------


class Contestant:
    def __init__(self, name: str, environ: dict[str, str]) -> None:
        command = [sys.executable, __file__, "--serve", name]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ)
        self.ask()

    def ask(self, *numbers: int) -> float:
        assert self._process.stdin and self._process.stdout
        if numbers:
            print(*numbers, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"A contestant ended with {self._process.wait()}.")
        return float(line) if numbers else 0.0

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def make_venv(folder: Path) -> None:
    if (folder / "bin/python").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/pip"), "install", "-q", CTRANSLATE2], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--ctranslate2", type=Path, help="its virtual environment, made when it is not there")
    parser.add_argument("--serve", choices=CONTESTANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve)
    with tempfile.TemporaryDirectory() as scratch:
        venv = given.ctranslate2 or Path(scratch) / "ctranslate2"
        make_venv(venv)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MKL_")}
        environ |= {"OMP_NUM_THREADS": "1", "CTRANSLATE2_VENV": str(venv), "WEIGHTS": f"{scratch}/weights.npz"}
        running = {name: Contestant(name, environ) for name in CONTESTANTS}
        measured: dict[tuple[str, int], list[float]] = {(n, k): [] for n, ks in CONTESTANTS.items() for k in ks}
        for _ in range(given.rounds):
            for name, requests in measured:
                measured[name, requests].append(running[name].ask(requests, given.context, given.tokens))
        for contestant in running.values():
            contestant.close()
    report({key: statistics.median(values) for key, values in measured.items()}, given)


def report(medians: dict[tuple[str, int], float], given: argparse.Namespace) -> None:
    floor, peer = medians[FLOOR, 1], medians[GENERATE, 1]
    print(f"{given.rounds} rounds of {given.tokens} tokens after {given.context}\n")
    print("| | requests | ms a step | × weight products | tokens/s | × generate |\n|---|---:|---:|---:|---:|---:|")
    for (name, requests), seconds in medians.items():
        rate = requests / seconds
        figures = f"{1000 * seconds:.1f} | {seconds / floor:.2f} | {rate:.0f} | {rate * peer:.2f}"
        print(f"| {name} | {requests} | {figures} |")


if __name__ == "__main__":
    main()
