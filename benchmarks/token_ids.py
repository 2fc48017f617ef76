"""Ids of 2,000 nasty strings: our tokenizers against llama.cpp's own on the converted file, family by family.

`PYTHONPATH=.:src python benchmarks/token_ids.py`; prints the table of benchmarks/results/conversion.md. The strings mix
English, Chinese, code, eleven kinds of white space, emoji, control characters and look-alikes of special tokens.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tests.e2e.random_checkpoints import FIXTURES, checkpoint, nasty_strings, tokens_by_llama_cpp, trained_bpe

from ninestory.models.convert.to_gguf import convert_to_gguf
from ninestory.tokenizers.load import load_tokenizer
from ninestory.tokenizers.rwkv import WORLD_ROWS, WorldTokenizer, packaged_world_vocabulary

COUNT = 2000
CUTS = {
    "bloom": "BLOOMZ, BELLE", "falcon": "GPT4All Falcon, OpenBuddy Falcon", "gpt-2": "GPT4All-J, MOSS",
    "llama-bpe": "OpenBuddy LLaMA-3", "qwen2": "OpenBuddy Qwen", "smollm": "the starter",
}  # fmt: skip


def sentencepiece(folder: Path) -> Path:
    """LLaMA's pieces as the Alpacas, Vicunas and OpenBuddy have them."""
    checkpoint(folder, "llama")
    return folder


def chinese(folder: Path) -> Path:
    """Chinese pieces behind LLaMA's, and [PAD]: Chinese-Alpaca."""
    facts = json.loads((FIXTURES / "prompts" / "chinese_vocab_merge.json").read_text())
    rows = facts["sizes"]["merged_plus_pad"]
    checkpoint(folder, "llama", vocab_size=rows)
    shutil.copy(FIXTURES / "prompts" / facts["merged_model"], folder / "tokenizer.model")
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": rows - 1}))
    return folder


def byte_level(folder: Path, cut: str) -> Path:
    checkpoint(folder, "qwen2", vocab_size=700)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    trained_bpe(cut).save(str(folder / "tokenizer.json"))
    return folder


def moss(folder: Path) -> Path:
    """GPT-2's two files, from the fixture of the original code."""
    checkpoint(folder, "codegen")
    return folder


def different(folder: Path, place: Path) -> int:
    path = convert_to_gguf(folder, place / f"{folder.name}.gguf").path
    tokenizer, texts = load_tokenizer(folder), nasty_strings(COUNT)
    return sum(tokenizer.encode(t) != ids for t, ids in zip(texts, tokens_by_llama_cpp(path, texts), strict=True))


def different_world(place: Path) -> int:
    """RWKV's packaged vocabulary behind the fixture's network."""
    weights = load_file(FIXTURES / "rwkv" / "v6" / "model.safetensors")
    table = np.random.default_rng(0).standard_normal((WORLD_ROWS, weights["emb.weight"].shape[1])).astype(np.float32)
    save_file({**weights, "emb.weight": table, "head.weight": table}, place / "world.safetensors")
    path = convert_to_gguf(place / "world.safetensors", place / "world.gguf").path
    tokenizer, texts = WorldTokenizer(packaged_world_vocabulary()), nasty_strings(COUNT)
    return sum(tokenizer.encode(t) != ids for t, ids in zip(texts, tokens_by_llama_cpp(path, texts), strict=True))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        print(f"| vocabulary | families | of {COUNT} strings, different |\n|---|---|---:|")
        rows = [
            ("SentencePiece", "Alpaca, Vicuna, OpenBuddy", different(sentencepiece(place / "llama"), place)),
            ("the same with Chinese pieces and [PAD]", "Chinese-Alpaca", different(chinese(place / "chinese"), place)),
            ("vocab.json and merges.txt", "MOSS", different(moss(place / "moss"), place)),
        ]
        rows += [
            (f"byte-level BPE, cut as {c}", f, different(byte_level(place / c, c), place)) for c, f in CUTS.items()
        ]
        rows.append(("World", "ChatRWKV", different_world(place)))
        for vocabulary, families, count in rows:
            print(f"| {vocabulary} | {families} | {count} |")


if __name__ == "__main__":
    main()
