"""Conversions and merges: MB of input per CPU-second and peak anonymous memory, one process each.

`python benchmarks/conversion.py [layers] > benchmarks/results/conversion.md`. The model is a LLaMA of 1,024 wide made
of random float16 weights (32,000 rows of embedding; 25 MB a layer). CPU-seconds are the whole process's, the start of
the interpreter included; anonymous memory is what the kernel counts as RssAnon, looked at every five milliseconds, so
the mapped source file is not in it (the kernel can drop its pages at any time).
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, FFN, ROWS, RANK = 1024, 2816, 32000, 16
BLOOM_ROWS = 250880
GGUF_KINDS = ("Q8_0", "F16", "Q4_0", "Q4_K")


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    made: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (ROWS, WIDTH), "lm_head.weight": (ROWS, WIDTH), "model.norm.weight": (WIDTH,)
    }  # fmt: skip
    for i in range(layers):
        name = f"model.layers.{i}."
        made |= {f"{name}self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkvo"}
        made |= {f"{name}mlp.{part}_proj.weight": (FFN, WIDTH) for part in ("gate", "up")}
        made |= {f"{name}mlp.down_proj.weight": (WIDTH, FFN)}
        made |= {f"{name}{norm}.weight": (WIDTH,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return made


def model(folder: Path, layers: int, tokenizer: Path) -> Path:
    rng = np.random.default_rng(0)
    values = (0.02 * rng.standard_normal(ROWS * WIDTH, dtype=np.float32)).astype(np.float16)
    folder.mkdir()
    save_file(
        {name: values[: int(np.prod(shape))].reshape(shape) for name, shape in shapes(layers).items()},
        folder / "model.safetensors",
    )
    config = {
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": layers,
        "num_attention_heads": 16, "max_position_embeddings": 2048, "vocab_size": ROWS,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(tokenizer, folder / "tokenizer.model")
    return folder


def adapter(folder: Path, layers: int) -> Path:
    rng = np.random.default_rng(1)
    matrices = [name for name, shape in shapes(layers).items() if len(shape) == 2 and "layers" in name]
    pairs = {}
    for name in matrices:
        out, inner = shapes(layers)[name]
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        pairs[f"{stem}.lora_A.weight"] = rng.standard_normal((RANK, inner), "f4")
        pairs[f"{stem}.lora_B.weight"] = 0.01 * rng.standard_normal((out, RANK), "f4")
    folder.mkdir()
    save_file(pairs, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 32}))
    return folder


def large_vocabulary(folder: Path, pairs: bool) -> Path:
    """A BLOOM of one layer with 250,880 tokens; its merges as pairs (newer tools) or as strings (as published)."""
    rng = random.Random(0)
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(b) for b in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]
    pool, known, merges = list(letters), set(letters), []
    while len(pool) < BLOOM_ROWS - 200:
        left, right = pool[rng.randrange(min(len(pool), 20000))], pool[rng.randrange(len(pool))]
        if len(left + right) <= 14 and left + right not in known:
            known.add(left + right)
            pool.append(left + right)
            merges.append([left, right])
    split = {"type": "Split", "pattern": {"Regex": " ?[^(\\s|[.,!?…。，、।۔،])]+"}, "behavior": "Isolated"}
    steps = [split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(pool)}}
    described = {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {**model, "merges": merges if pairs else [" ".join(pair) for pair in merges]},
    }
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    config = {"model_type": "bloom", "hidden_size": 64, "n_layer": 1, "n_head": 4, "vocab_size": BLOOM_ROWS}
    (folder / "config.json").write_text(json.dumps(config))
    sizes = {"word_embeddings.weight": (BLOOM_ROWS, 64)}
    for name in ("word_embeddings_layernorm", "ln_f", "h.0.input_layernorm", "h.0.post_attention_layernorm"):
        sizes |= {f"{name}.weight": (64,), f"{name}.bias": (64,)}
    for name, rows, columns in (
        ("self_attention.query_key_value", 192, 64), ("self_attention.dense", 64, 64), ("mlp.dense_h_to_4h", 256, 64),
        ("mlp.dense_4h_to_h", 64, 256),
    ):  # fmt: skip
        sizes |= {f"h.0.{name}.weight": (rows, columns), f"h.0.{name}.bias": (rows,)}
    save_file({name: np.zeros(shape, np.float16) for name, shape in sizes.items()}, folder / "model.safetensors")
    return folder


def measure(*arguments: str | Path) -> tuple[float, float, float]:
    """(CPU-seconds, wall seconds, peak anonymous MB) of one `ninestory` command."""
    command = [sys.executable, "-m", "ninestory", *map(str, arguments)]
    started, before = time.perf_counter(), os.times()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text() if process.poll() is None else ""
        if matched := re.search(r"RssAnon:\s+(\d+) kB", status):
            peak = max(peak, int(matched[1]))
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.perf_counter() - started, peak / 1000


def main() -> None:
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    tokenizer = Path(__file__).parents[1] / "tests" / "fixtures" / "prompts" / "tiny_llama.model"
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        source = model(home / "model", layers, tokenizer)
        shutil.copytree(source, home / "delta")
        lora = adapter(home / "lora", layers)
        nbytes = (source / "model.safetensors").stat().st_size
        jobs: list[tuple[str, tuple[str | Path, ...]]] = [
            (f"to GGUF {kind}", ("convert", "gguf", source, home / f"{kind}.gguf", "--quant", kind, "--no-check"))
            for kind in GGUF_KINDS
        ]
        jobs += [
            ("safetensors, copied", ("convert", "safetensors", source, home / "copy")),
            ("delta added, float16", ("merge", "delta", source, home / "delta", home / "sum")),
            (f"LoRA merged, rank {RANK}", ("merge", "lora", source, home / "merged", "--adapter", lora)),
        ]
        for form in ("strings", "pairs"):
            bloom = large_vocabulary(home / form, pairs=form == "pairs")
            gguf = ("convert", "gguf", bloom, home / f"{form}.gguf", "--no-check")
            jobs.append((f"32 MB with {BLOOM_ROWS:,} tokens, merges as {form}", gguf))
        print("# Conversions and merges\n")
        print(f"{processor()}, one thread, other work on the machine: CPU-seconds count, wall times do not.")
        print(f"`benchmarks/conversion.py {layers}`: {nbytes / 1e6:.0f} MB of float16 weights; a process each.\n")
        print("| | CPU-s | MB per CPU-s | peak anonymous MB |\n|---|---:|---:|---:|")
        for name, arguments in jobs:
            cpu, _, peak = measure(*arguments)
            speed = "" if "tokens" in name else f"{nbytes / 1e6 / cpu:.0f}"
            print(f"| {name} | {cpu:.1f} | {speed} | {peak:.0f} |", flush=True)
            for made in (*home.glob("*.gguf"), home / "copy", home / "sum", home / "merged"):
                shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
