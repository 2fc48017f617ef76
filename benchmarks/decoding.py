"""Decoding in the torch engine beside transformers' `generate` and the bare weight products, in one process.

    python benchmarks/decoding.py [--rounds 5] [--tokens 32] [--context 64]

A LLaMA shape of 58 million random weights, float32, one thread; processor time, which other work on the machine hardly changes. The floor is one `torch.mv` over every weight matrix
but the embedding. Every figure is decode only: the prompt's passes are apart. Prints a table in Markdown; the rows of
one round follow one another, so a busy machine slows them all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from ninestory.runtimes.torch.environment import prepare

prepare()

import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from ninestory.runtimes.torch.decoder import Decoder, decoder_of  # noqa: E402
from ninestory.runtimes.torch.packed_linear import Int8Linear, linears, replace_linears  # noqa: E402
from ninestory.runtimes.torch.probe import choose_linears  # noqa: E402
from ninestory.runtimes.torch.step import Row  # noqa: E402

WIDTH, LAYERS, HEADS, FFN, VOCABULARY = 512, 8, 8, 1408, 32000
LENGTH = 1024


def build() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def floor(model: Any) -> float:
    """Seconds of one product of a vector with every weight matrix."""
    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    vectors = [torch.ones(weight.shape[1]) for weight in weights]
    began = time.thread_time()
    for weight, vector in zip(weights, vectors, strict=True):
        torch.mv(weight, vector)
    return time.thread_time() - began


def engine_step(decoder: Decoder, context: int, tokens: int, batch: int) -> float:
    """Seconds of one decode step of `batch` requests that hold `context` tokens each and more."""
    for slot in range(batch):
        decoder.forward(torch.arange(context) + 3, [Row(slot, 0, context)])
    began = time.thread_time()
    for i in range(tokens):
        rows = [Row(slot, context + i, 1) for slot in range(batch)]
        hidden = decoder.forward(torch.full((batch,), 7), rows)
        decoder.logits(hidden).argmax(1)
    return (time.thread_time() - began) / tokens


def generate_step(model: Any, context: int, tokens: int) -> float:
    """Seconds a token of greedy `generate`, what one token with the same prompt costs taken away."""
    prompt = torch.arange(context)[None] + 3
    seconds = []
    for count in (1, tokens + 1):
        began = time.thread_time()
        model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
        seconds.append(time.thread_time() - began)
    return (seconds[1] - seconds[0]) / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--context", type=int, default=64)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plain = build()
    exact, int8, unpacked = build(), build(), build()
    choice = choose_linears(exact)
    replace_linears(exact, choice.classes)
    replace_linears(int8, dict.fromkeys(linears(int8), Int8Linear))
    decoders = {name: decoder_of(model, slots=8, context=LENGTH) for name, model in
                (("float32, invariant", exact), ("float32, plain linears", unpacked), ("int8", int8))}  # fmt: skip
    rows: dict[str, Callable[[], float]] = {"floor: weight products, 1 token": lambda: floor(plain)}
    rows["transformers generate, 1"] = lambda: generate_step(plain, given.context, given.tokens)
    for name, decoder in decoders.items():
        for batch in (1, 8):
            rows[f"engine {name}, {batch}"] = lambda d=decoder, b=batch: engine_step(  # type: ignore[misc]
                d, given.context, given.tokens, b
            )
    measured: dict[str, list[float]] = {name: [] for name in rows}
    with torch.inference_mode():
        for _ in range(given.rounds):
            for name, measure in rows.items():
                measured[name].append(measure())
    report({name: statistics.median(values) for name, values in measured.items()}, choice.note, given)


def report(medians: dict[str, float], note: str, given: argparse.Namespace) -> None:
    least = medians["floor: weight products, 1 token"]
    print(f"{note}; {given.rounds} rounds of {given.tokens} tokens after {given.context}\n")
    print("| | ms a step | × floor | tokens/s |\n|---|---:|---:|---:|")
    for name, seconds in medians.items():
        together = 8 if name.endswith(", 8") else 1
        print(f"| {name} | {1000 * seconds:.1f} | {seconds / least:.2f} | {together / seconds:.0f} |")


if __name__ == "__main__":
    main()
