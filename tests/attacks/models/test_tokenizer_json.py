"""Hostile `tokenizer.json` files in a checkpoint: refused by name on loading, in little time and memory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Damaged
from ninestory.tokenizers.load import load_tokenizer
from ninestory.tokenizers.tokenizer_json import backtracking_fault

TEXT = "a" * 40 + "! 中文 1234"
BPE = {"type": "BPE", "vocab": {chr(i): i - 32 for i in range(32, 127)}, "merges": [], "unk_token": " "}


def added(count: int, length: int = 1) -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": 95 + i, "content": f"<{'t' * length}{i}>", **plain} for i in range(count)]


def split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def nested(levels: int, width: int) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(levels):
        part = {"type": "Sequence", "normalizers": [part] * width}
    return part


def template(count: int, ids: int) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": " ", "type_id": 0}}] * count, "pair": [],
        "special_tokens": {" ": {"id": " ", "ids": [0] * ids, "tokens": [" "] * ids}},
    }  # fmt: skip


HOSTILE: dict[str, dict[str, Any]] = {
    "expression that repeats repeats": {"pre_tokenizer": split("(a+)+$")},
    "expression that repeats a choice": {"pre_tokenizer": split("(a|aa)+$")},
    "expression that refers back": {"pre_tokenizer": split(r"(a*)\1b")},
    "expression inside a sequence": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split("(a*)*b")]}},
    "expression of a normalizer": {"normalizer": replace({"Regex": "(a+)+$"}, "x")},
    "expression of a decoder": {"decoder": replace({"Regex": "(a+)+$"}, "x")},
    "long expression": {"pre_tokenizer": split("a?" * 50_000)},
    "text that grows": {"normalizer": replace({"String": "a"}, "b" * 1_000_000)},
    "text that grows by steps": {
        "normalizer": {"type": "Sequence", "normalizers": [replace({"String": "a"}, "a" * 10)] * 9}
    },
    "text that grows from nothing": {"normalizer": replace({"String": ""}, "b" * 1000)},
    "long beginning": {"normalizer": {"type": "Prepend", "prepend": "x" * 10_000_000}},
    "very many added tokens": {"added_tokens": added(100_000)},
    "very long added tokens": {"added_tokens": added(3, 1_000_000)},
    "added token with a giant id": {"added_tokens": [{**added(1)[0], "id": 4294967295}]},
    "added token without text": {"added_tokens": [{"id": 95}]},
    "deep sequence": {"normalizer": nested(200, 1)},
    "wide and deep sequence": {"normalizer": nested(16, 2)},
    "very many tokens around": {"post_processor": template(1000, 1000)},
    "Unigram with long pieces": {
        "model": {"type": "Unigram", "vocab": [["a" * i, -1.0] for i in range(1, 2000)], "unk_id": 0}
    },
    "WordPiece with long words": {
        "model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]",
                  "continuing_subword_prefix": "##", "max_input_chars_per_word": 10**9}
    },
    "a model that is none": {"model": {"type": "BPE", "vocab": [1, 2]}},
    "a section that is a list": {"normalizer": [1]},
}  # fmt: skip


def write(folder: Path, changed: dict[str, Any]) -> Path:
    whole = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
        "decoder": None, "model": BPE,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(whole | changed), encoding="utf-8")
    return folder


@pytest.mark.parametrize("changed", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_description_is_refused_by_name(tmp_path: Path, changed: dict[str, Any]) -> None:
    folder = write(tmp_path, changed)
    started = time.monotonic()
    with pytest.raises(Damaged) as refusal:
        load_tokenizer(folder)
    assert time.monotonic() - started < 3
    assert len(refusal.value.message) < 1000
    assert refusal.value.hint_zh != refusal.value.hint


@pytest.mark.parametrize(
    "changed",
    [
        {"truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}},
        {"padding": {"strategy": {"Fixed": 1_000_000_000}, "direction": "Right", "pad_to_multiple_of": None,
                     "pad_id": 0, "pad_type_id": 0, "pad_token": " "}},
        {"padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 1_000_000_000,
                     "pad_id": 0, "pad_type_id": 0, "pad_token": " "}},
    ],
    ids=["truncation", "fixed padding", "padding to a multiple"],
)  # fmt: skip
def test_truncation_and_padding_do_nothing(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert load_tokenizer(write(tmp_path, changed)).encode("abc def") == [c - 32 for c in b"abc def"]


def test_what_the_library_gives_up_on_is_a_typed_error(tmp_path: Path) -> None:
    """Its panic is no `Exception`: it ended the thread of the request."""
    tokenizer = load_tokenizer(write(tmp_path, {"pre_tokenizer": split(r"\w*\w*\w*\w*\w*\w*[^\w!]")}))
    with pytest.raises(Damaged, match=r"invalid: .*retry-limit"):
        tokenizer.encode("a" * 300 + "!")


def test_published_expressions_are_taken() -> None:
    for expression in (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+(?i:'s|'t|'re)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\d{1,3}(?=(?:\d{3})*\b)", r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+",
    ):  # fmt: skip
        assert backtracking_fault(expression) == "", expression
