"""What the types of the torch engine cost a trained model: perplexity of the starter on this repository's English pages.

    python benchmarks/decoding_perplexity.py [--pages 4]

SmolLM2-135M-Instruct, its GGUF widened to float32 in a temporary home; each page's first 1,200 characters are scored
after their first word. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import threading
from pathlib import Path

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.models.convert.gguf_safetensors import write_checkpoint
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import ScoreItem, ScoreRequest, Scores

STARTER = "starter:smollm2-135m-instruct"
PAGES = ("README.md", "CONTRIBUTING.md", "docs/guides/en/vicuna.md", "docs/guides/en/moss.md")


def score(folder: Path, texts: list[str], dtype: str) -> tuple[int, float, str]:
    """(tokens, their mean log-probability, what was chosen at load)"""
    engine = load_engine(resolve(str(folder), Home.default()), RuntimeSettings(dtype=dtype, threads=1, slots=1))
    values: list[float] = []
    try:
        for text in texts:
            first, rest = text.split(" ", 1)
            item = ScoreItem(context=first, continuations=[f" {rest}"])
            for chunk in engine.run(ScoreRequest(items=[item]), threading.Event()):
                if isinstance(chunk, Scores):
                    values += chunk.values[0][0]
    finally:
        engine.close()
    return len(values), sum(values) / len(values), engine.info.notes[-2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=len(PAGES))
    given = parser.parse_args()
    root = Path(__file__).parent.parent
    texts = [(root / page).read_text(encoding="utf-8")[:1200] for page in PAGES[: given.pages]]
    source = resolve(STARTER, Home.default()).path
    assert source is not None
    print("| type | tokens | perplexity | chosen at load |\n|---|---:|---:|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "smollm2"
        write_checkpoint(source, folder, Silent())
        for dtype in ("float32", "int8", "bfloat16"):
            tokens, mean, note = score(folder, texts, dtype)
            print(f"| {dtype} | {tokens} | {math.exp(-mean):.2f} | {note} |", flush=True)


if __name__ == "__main__":
    main()
