"""RWKV's vocabulary files: read as data, refused when they are not what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ninestory.core.errors import Damaged, Unsupported
from ninestory.tokenizers.rwkv import NEOX_FILE, WORLD_FILE, NeoxTokenizer, WorldTokenizer, load_rwkv_tokenizer

BYTES = [f"{b + 1} {bytes([b])!r} 1" for b in range(256)]
WORDS = ["257 '\\n\\n' 2", "258 'ab' 2", "259 '你' 3", "260 b'\\xe4\\xbd' 2"]


def write(folder: Path, lines: list[str], end: str = "\n") -> Path:
    path = folder / WORLD_FILE
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_longest_entry_is_taken_and_anything_encodes(tmp_path: Path, end: str) -> None:
    tokenizer = WorldTokenizer(write(tmp_path, [*BYTES, *WORDS], end))
    assert tokenizer.encode("aab你") == [98, 258, 259]
    assert tokenizer.encode_bytes(b"\xe4\xbd\xff") == [260, 256]
    assert tokenizer.decode([260]) == "\ufffd"
    assert tokenizer.decode(tokenizer.encode("\n\n\n好")) == "\n\n\n好"
    assert tokenizer.encode("\n\n\n") == [257, 11]


@pytest.mark.parametrize(
    "line",
    [
        "261 __import__('os').getcwd() 3",  # an expression is no entry
        "261 'abc' 2",  # not so long
        "261 'ab'*9 2",
        "261 'ab' 2",  # there already
        "70000 'abc' 3",  # beyond the embedding
        "261 ['abc'] 3",
        "261 'abc",
        "words",
        "261 '" + "a" * 5000 + "' 5000",
    ],
)
def test_a_line_that_is_no_entry_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(Damaged, match="not an RWKV vocabulary"):
        WorldTokenizer(write(tmp_path, [*BYTES, *WORDS, line]))


def test_a_vocabulary_without_every_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="single bytes are missing"):
        WorldTokenizer(write(tmp_path, [*BYTES[1:], *WORDS]))


def test_rows_decide_and_a_file_beside_the_model_comes_first(tmp_path: Path) -> None:
    write(tmp_path, [*BYTES, *WORDS])
    beside, packaged = load_rwkv_tokenizer(65536, tmp_path), load_rwkv_tokenizer(65536)
    assert beside.encode("ab") == [258] != packaged.encode("ab")
    assert isinstance(load_rwkv_tokenizer(50277), NeoxTokenizer)
    with pytest.raises(Unsupported, match="32000 rows"):
        load_rwkv_tokenizer(32000)


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}})])
def test_another_json_is_no_neox_vocabulary(tmp_path: Path, text: str) -> None:
    (tmp_path / NEOX_FILE).write_text(text)
    with pytest.raises(Damaged, match="not an RWKV vocabulary"):
        load_rwkv_tokenizer(50277, tmp_path)
