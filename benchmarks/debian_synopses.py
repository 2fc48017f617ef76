"""Real data for the tuning demonstration: Debian's package descriptions as rows "long description → synopsis".

    apt-get -o Acquire::Languages=en -o Dir::State::lists=LISTS update     # once; LISTS/partial must exist
    python benchmarks/debian_synopses.py LISTS OUT

Writes OUT/train.jsonl and OUT/held_out.jsonl in Alpaca's form. Packages of one description appear once; which rows are
held out follows from the package's name, so that the same lists give the same split.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

INSTRUCTION = "Write the one-line synopsis of this Debian package."
SHORTEST, LONGEST = 80, 600  # characters of a long description
HELD_OUT_SHARE = 0.002


def records(lists: Path) -> Iterator[tuple[str, str, str]]:
    """(package, synopsis, long description) of every English translation file in `lists`."""
    for file in sorted(lists.glob("*_i18n_Translation-en*")):
        done = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(file)], capture_output=True, check=True)
        for block in done.stdout.decode("utf-8").split("\n\n"):
            lines = block.splitlines()
            name = next((line[9:] for line in lines if line.startswith("Package: ")), "")
            start = next((i for i, line in enumerate(lines) if line.startswith("Description-en: ")), None)
            if name and start is not None:
                yield name, lines[start][16:].strip(), long_text(lines[start + 1 :])


def long_text(lines: list[str]) -> str:
    """Continuation lines as paragraphs; a line with a single dot separates them."""
    paragraphs = [""]
    for line in lines:
        text = line.strip()
        if text == ".":
            paragraphs.append("")
        else:
            paragraphs[-1] = f"{paragraphs[-1]} {text}".strip()
    return "\n".join(filter(None, paragraphs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    files = {name: (arguments.out / f"{name}.jsonl").open("w", encoding="utf-8") for name in ("train", "held_out")}
    counts = dict.fromkeys(files, 0)
    for name, synopsis, text in records(arguments.lists):
        if not SHORTEST <= len(text) <= LONGEST or text in seen or not synopsis:
            continue
        seen.add(text)
        share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
        part = "held_out" if share < HELD_OUT_SHARE else "train"
        row = {"instruction": INSTRUCTION, "input": text, "output": synopsis}
        files[part].write(json.dumps(row, ensure_ascii=False) + "\n")
        counts[part] += 1
    for file in files.values():
        file.close()
    print(", ".join(f"{part}: {count} rows" for part, count in counts.items()))


if __name__ == "__main__":
    main()
