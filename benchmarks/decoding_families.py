"""Every family in the torch engine: equal bits alone and among eight, and what eight requests together are worth.

    python benchmarks/decoding_families.py bits [--rows 2000]
    python benchmarks/decoding_families.py eight [--contexts 64 256] [--tokens 16] [--rounds 3]

`bits`: eight requests of random tokens join one after another, decode together and leave one after another; each is
played again alone with the same tokens, and every row of logits is compared bit for bit. Tiny shapes, one family each
kind of attention and each version of RWKV. `eight`: models of about 60 million random weights, one thread, processor
time of one step of one request and of eight, each with the stated tokens in its slot, and the memory of a stream.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ninestory.runtimes.torch.environment import prepare

prepare()

import torch  # noqa: E402

from ninestory.runtimes.torch.decoder import Decoder, decoder_of  # noqa: E402
from ninestory.runtimes.torch.open import suit  # noqa: E402
from ninestory.runtimes.torch.slots import CHUNK  # noqa: E402
from ninestory.runtimes.torch.step import Row  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import tiny_decoders, tiny_rwkv  # noqa: E402

EIGHT = 8
PROMPTS = (3, 64, 70, 130, 17, 90, 67, 40)  # tokens of the eight prompts: within, at and beyond the chunks' ends


# --- bits ------------------------------------------------------------------------------------------------------------


def play(decoder: Decoder, texts: list[tuple[int, torch.Tensor]]) -> list[torch.Tensor]:
    """Logits [tokens after the prompt, vocabulary] of each (prompt length, tokens); one joins at a time."""
    done, logits = [0] * len(texts), [[] for _ in texts]
    for slot in range(len(texts)):
        decoder.store.restore(slot, slot, 0)
    while any(at < len(tokens) for at, (_, tokens) in zip(done, texts, strict=True)):
        rows, joining = [], False
        for slot, (prompt, tokens) in enumerate(texts):
            if prompt <= done[slot] < len(tokens):
                rows.append(Row(slot, done[slot], 1))
            elif done[slot] < prompt and not joining:
                left = prompt - done[slot]
                rows.append(Row(slot, done[slot], min(CHUNK, left) if decoder.chunked else left))
                joining = True
        hidden = decoder.forward(torch.cat([texts[r.slot][1][r.start : r.end] for r in rows]), rows)
        ends = torch.tensor([row.n for row in rows]).cumsum(0) - 1
        for row, own in zip(rows, decoder.logits(hidden[ends]), strict=True):
            done[row.slot] = row.end
            if row.end >= texts[row.slot][0]:
                logits[row.slot].append(own)
    return [torch.stack(own) for own in logits]


def texts_of(family: str, rows: int) -> list[tuple[int, torch.Tensor]]:
    generator, texts = torch.Generator().manual_seed(0), []
    for prompt in PROMPTS:
        tokens = torch.randint(3, tiny_decoders.PLAIN, (prompt + rows // EIGHT - 1,), generator=generator)
        if family.startswith("chatglm"):
            tokens[prompt - 2 : prompt] = torch.tensor([tiny_decoders.GMASK, tiny_decoders.SOP])
        texts.append((prompt, tokens))
    return texts


@torch.inference_mode()
def differing_rows(family: str, model: Any, rows: int) -> tuple[int, int]:
    """(rows that differ, rows compared)"""
    suit(model, "float32")
    texts = texts_of(family, rows)
    decoder = decoder_of(model, slots=EIGHT, context=max(len(tokens) for _, tokens in texts))
    together = play(decoder, texts)
    differ = total = 0
    for text, among in zip(texts, together, strict=True):
        (alone,) = play(decoder, [text])
        differ += int((alone != among).any(dim=1).sum())
        total += len(alone)
    return differ, total


def bits(rows: int) -> None:
    print("| family | rows of logits | differ |\n|---|---:|---:|")
    models: dict[str, Callable[[], Any]] = {f: lambda f=f: tiny_decoders.build(f) for f in tiny_decoders.FAMILIES}  # type: ignore[misc]
    models |= {
        f"rwkv {v}": lambda v=v: tiny_rwkv.tiny_model(v, vocabulary=tiny_decoders.VOCABULARY)  # type: ignore[misc]
        for v in tiny_rwkv.VERSIONS
    }
    for family, make in models.items():
        differ, total = differing_rows(family, make(), rows)
        print(f"| {family} | {total} | {differ} |", flush=True)


# --- eight together --------------------------------------------------------------------------------------------------

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT = 512, 8, 8, 32000, 1024


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=1408, num_hidden_layers=LAYERS,
                    num_attention_heads=HEADS, max_position_embeddings=CONTEXT)
    )  # fmt: skip


def chatglm() -> Any:
    from ninestory.architectures.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration

    return ChatGLMForConditionalGeneration(
        ChatGLMConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, num_layers=LAYERS, num_attention_heads=HEADS,
                      inner_hidden_size=4 * WIDTH, bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1,
                      gmask_token_id=VOCABULARY - 3, mask_token_id=VOCABULARY - 4)
    )  # fmt: skip


def moss() -> Any:
    from ninestory.architectures.moss import MossConfig, MossForCausalLM

    return MossForCausalLM(
        MossConfig(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, rotary_dim=32,
                   n_positions=CONTEXT, wbits=32)
    )  # fmt: skip


SHAPES: dict[str, Callable[[], Any]] = {
    "LLaMA": llama,
    "ChatGLM": chatglm,
    "MOSS": moss,
    "RWKV 4": lambda: tiny_rwkv.tiny_model("4", vocabulary=VOCABULARY, width=WIDTH, layers=LAYERS),
    "RWKV 7": lambda: tiny_rwkv.tiny_model("7", vocabulary=VOCABULARY, width=WIDTH, layers=LAYERS),
}


def step_seconds(decoder: Decoder, requests: int, context: int, tokens: int) -> float:
    ids = torch.arange(context) + 3
    if not decoder.chunked:
        ids[-2:] = torch.tensor([VOCABULARY - 3, VOCABULARY - 2])
    for slot in range(requests):
        decoder.store.restore(slot, slot, 0)
        decoder.forward(ids, [Row(slot, 0, context)])
    began = time.thread_time()
    for i in range(tokens):
        rows = [Row(slot, context + i, 1) for slot in range(requests)]
        decoder.logits(decoder.forward(torch.full((requests,), 7), rows)).argmax(1)
    return (time.thread_time() - began) / tokens


@torch.inference_mode()
def eight(contexts: list[int], tokens: int, rounds: int) -> None:
    torch.set_num_threads(1)
    print("| shape | context | ms one | ms eight | tokens/s of eight ÷ of one | MB a stream at that context |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, make in SHAPES.items():
        torch.manual_seed(0)
        model = make().eval()
        suit(model, "float32")
        decoder = decoder_of(model, slots=EIGHT, context=max(contexts) + tokens)
        for context in contexts:
            pairs = [[step_seconds(decoder, n, context, tokens) for n in (1, EIGHT)] for _ in range(rounds)]
            one, many = (statistics.median(side) for side in zip(*pairs, strict=True))
            print(f"| {name} | {context} | {1000 * one:.1f} | {1000 * many:.1f} | {EIGHT * one / many:.1f} "
                  f"| {stream_bytes(decoder, context) / 1e6:.1f} |", flush=True)  # fmt: skip


def stream_bytes(decoder: Any, context: int) -> int:
    """What one request keeps: keys and values of `context` tokens, or a state and its snapshot."""
    if hasattr(decoder.store, "nbytes_a_slot"):
        return int(decoder.store.nbytes_a_slot)
    return 2 * LAYERS * WIDTH * context * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["bits", "eight"])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "bits":
        bits(given.rows)
    else:
        eight(given.contexts, given.tokens, given.rounds)


if __name__ == "__main__":
    main()
