"""QLoRA from a checkpoint saved in 4 bits against LoRA on the same model: peak memory, and stored bits a parameter.

    python benchmarks/qlora.py          (about four minutes)

Both as `tuning_plan.py` measures them: a process each, two steps, recomputed activations, 4 rows of 236 tokens.
"""

from __future__ import annotations

import tempfile
from math import prod
from pathlib import Path

from tuning_plan import Configuration, in_a_process, written

SHAPES = {
    "135M (30 × 576, MLP 1536, vocabulary 49,152)": {"layers": 30, "hidden": 576, "ffn": 1536, "vocabulary": 49152, "kv_heads": 3},
    "162M (20 × 768, MLP 2048, vocabulary 32,000)": {"layers": 20, "hidden": 768, "ffn": 2048, "vocabulary": 32000, "kv_heads": 4},
}  # fmt: skip


def main() -> None:
    print("| model | LoRA MB | QLoRA MB | ratio | import MB | ratio without it |\n|---|---:|---:|---:|---:|---:|")
    for name, shape in SHAPES.items():
        lora, qlora = (
            in_a_process(Configuration(method, rows=4, length=236, checkpointing=True, **shape))
            for method in ("lora", "qlora")
        )
        ratio = qlora["peak"] / lora["peak"]
        without = (qlora["peak"] - qlora["imported"]) / (lora["peak"] - lora["imported"])
        cells = (lora["peak"] / 1e6, qlora["peak"] / 1e6, lora["imported"] / 1e6)
        print(
            f"| {name} | {cells[0]:.0f} | {cells[1]:.0f} | {ratio:.2f} | {cells[2]:.0f} | {without:.2f} |", flush=True
        )
    scales, everything = stored_bits()
    print(
        f"\nStored bits of a packed parameter: {scales:.3f}; with the code tables and headers of the file {everything:.3f}."
    )


def stored_bits() -> tuple[float, float]:
    """Of the packed linears of a checkpoint on disk: codes and scales, and all that belongs to them."""
    from ninestory.models.convert.checkpoint import open_checkpoint

    configuration = Configuration("qlora", layers=2, hidden=768, ffn=2048)
    with tempfile.TemporaryDirectory() as folder:
        tensors = open_checkpoint(written(configuration, Path(folder))).tensors
        packed = [name for name in tensors if f"{name}.absmax" in tensors]
        parts = {name: [t for other, t in tensors.items() if other.startswith(name)] for name in packed}
    weights = 2 * sum(prod(tensors[name].shape) for name in packed)
    needed = ("weight", "absmax", "nested_absmax")
    scales = sum(t.nbytes for held in parts.values() for t in held if t.name.endswith(needed))
    return 8 * scales / weights, 8 * sum(t.nbytes for held in parts.values() for t in held) / weights


if __name__ == "__main__":
    main()
