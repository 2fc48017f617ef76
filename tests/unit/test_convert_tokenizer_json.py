"""A tokenizer.json on its way into a GGUF: every way to write it gives the same, and none is held in memory whole."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Damaged, Unsupported
from ninestory.models.convert.gguf_header import encode_header
from ninestory.models.convert.gguf_tokenizer import tokenizer_metadata
from ninestory.models.convert.tokenizer_json import open_tokenizer_json

MERGES = [("a", "b"), ('"', "\\"), ("\u0120", "é"), ("[", "]"), ("{", ","), ("ab", "ab")]
TOKENS = {token: i for i, token in enumerate([*'ab"\\\u0120é[]{},', *("".join(pair) for pair in MERGES)])}
BPE = {
    "version": "1.0",
    "added_tokens": [{"id": 0, "content": "a", "special": False}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "model": {"vocab": {"not this": 1}}},
    "model": {"type": "BPE", "vocab": TOKENS, "merges": [list(pair) for pair in MERGES]},
}


def written(path: Path, text: str) -> Path:
    (path / "tokenizer.json").write_text(text, encoding="utf-8")
    return path / "tokenizer.json"


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("pairs", [True, False])
def test_every_way_to_write_it_gives_the_same(
    pairs: bool, indent: int | None, ascii_only: bool, tmp_path: Path
) -> None:
    merges: list[Any] = [list(pair) if pairs else " ".join(pair) for pair in MERGES]
    described = {**BPE, "model": {"merges": merges, **{k: v for k, v in BPE["model"].items() if k != "merges"}}}  # type: ignore[attr-defined]
    opened = open_tokenizer_json(written(tmp_path, json.dumps(described, indent=indent, ensure_ascii=ascii_only)))
    assert dict(opened.tokens()) == TOKENS
    assert list(opened.merges) == list(opened.merges) == [" ".join(pair) for pair in MERGES]
    assert len(opened.merges) == len(MERGES) and "a b" in opened.merges and "a c" not in opened.merges
    assert opened.table == {**BPE, "model": {"type": "BPE", "vocab": {}, "merges": []}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"model": {"type": "BPE", "vocab": {"a": "b"}}}',
        '{"model": {"type": "BPE", "vocab": {"a": 1',
        '{"model": {"type": "BPE", "vocab": {"a": 1}, "merges": [["a", "b", "c"]]}}',
        '{"model": {"type": "BPE", "vocab": {"a": 1}, "merges": [1]}}',
        "version https://git-lfs.github.com/spec/v1\n",
        '{"pre_tokenizer": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 999999999}, "merges": []}}',
    ],
)
def test_what_is_no_tokenizer_is_refused_in_words(text: str, tmp_path: Path) -> None:
    written(tmp_path, text)
    with pytest.raises(Damaged):
        tokenizer_metadata(tmp_path, 10, {})


def test_another_kind_of_model_is_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path, '{"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0]]}}')
    with pytest.raises(Unsupported, match="not a byte-level BPE"):
        tokenizer_metadata(tmp_path, 10, {})


def test_a_large_vocabulary_takes_little_memory(tmp_path: Path) -> None:
    """Parsed whole, this file took 13 times its size; now the tokens are text once and the header twice."""
    pieces = [f"Ġtoken{i:05}" for i in range(30000)]
    model = {"type": "BPE", "vocab": {p: i for i, p in enumerate(pieces)}, "merges": [[p[:3], p[3:]] for p in pieces]}
    size = written(tmp_path, json.dumps({**BPE, "added_tokens": [], "model": model}, ensure_ascii=False)).stat().st_size
    tracemalloc.start()
    try:
        header = encode_header(tokenizer_metadata(tmp_path, len(pieces), {}), [])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pieces[-1].encode() in header
    assert peak < 6 * size, f"{peak / size:.1f} times the file"
