"""Streaming reader of `tokenizer.json`: of its half a million strings, one at a time is in memory.

Parsed whole, BLOOM's vocabulary of 250,880 tokens and its merges take 150 MB; the file is mapped instead, what is small
in it is parsed, and the vocabulary and the merges are handed out as they stand.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged
from ninestory.core.json_file import MAX_JSON_BYTES, refuse_pointer

_STRING = rb'"(?:[^"\\]|\\.)*+"'
_MARK = re.compile(_STRING + rb"|[{}\[\]]", re.DOTALL)
_TOKEN = re.compile(rb"\s*+(" + _STRING + rb")\s*+:\s*+(\d{1,9})\s*+,?+", re.DOTALL)
_PAIR = rb"\[\s*+(" + _STRING + rb")\s*+,\s*+(" + _STRING + rb")\s*+\]"
_MERGE = re.compile(rb"\s*+(?:(" + _STRING + rb")|" + _PAIR + rb")\s*+,?+", re.DOTALL)
_END = re.compile(rb"\s*+[}\]]")


@dataclass(frozen=True)
class TokenizerJson:
    """A mapped tokenizer.json. `table`: its content, with the model's vocabulary ({}) and merges ([]) left out."""

    table: dict[str, Any]
    vocabulary: Entries
    merges: Entries

    def tokens(self) -> Iterator[tuple[str, int]]:
        """(token, id) in the order of the file."""
        return ((_text(match[1]), int(match[2])) for match in self.vocabulary.matches())


class Entries(Collection[str]):
    """Strings of a mapped file, decoded on every iteration; merges as "left right"."""

    def __init__(self, data: mmap.mmap | bytes, pattern: re.Pattern[bytes], start: int) -> None:
        self._data, self._pattern, self._start = data, pattern, start
        self._count, self.end = 0, start
        for match in self.matches():
            self._count, self.end = self._count + 1, match.end()
        closed = _END.match(data, self.end)
        if closed is None:
            raise ValueError(f"the entry at byte {self.end} is malformed: {data[self.end : self.end + 40]!r}")
        self.end = closed.end() - 1

    def matches(self) -> Iterator[re.Match[bytes]]:
        position = self._start
        while match := self._pattern.match(self._data, position):
            yield match
            position = match.end()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        for match in self.matches():
            yield _text(match[1]) if match[1] else f"{_text(match[2])} {_text(match[3])}"

    def __contains__(self, entry: object) -> bool:
        return any(entry == mine for mine in self)


def open_tokenizer_json(path: Path) -> TokenizerJson:
    """Map and read a `tokenizer.json` with a vocabulary and merges of its own (a BPE's).

    Raises:
        Damaged: the file is a Git LFS pointer, exceeds `MAX_JSON_BYTES`, or is malformed.
    """
    refuse_pointer(path)
    try:
        if not 0 < path.stat().st_size <= MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes; expected at most {MAX_JSON_BYTES}")
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        lists = _lists(data)
        rest, at = bytearray(), 0
        for entries, start in sorted(lists.values(), key=lambda found: found[1]):
            rest, at = rest + data[at:start], entries.end
        table = json.loads(bytes(rest + data[at:]))
        if not isinstance(table, dict):
            raise ValueError(f"it is a {type(table).__name__}")
    except (ValueError, RecursionError) as error:
        raise Damaged(
            f"{path.name} is not a JSON object: {error}.", hint="Download it again.", hint_zh="请重新下载。"
        ) from error
    nothing = Entries(b"]", _MERGE, 0)
    return TokenizerJson(table, *(lists.get(name, (nothing, 0))[0] for name in ("vocab", "merges")))


def _lists(data: mmap.mmap) -> dict[str, tuple[Entries, int]]:
    """The vocabulary and the merges of the key "model", with the byte behind the bracket that opens each."""
    found: dict[str, tuple[Entries, int]] = {}
    path: list[bytes] = []
    key, position = b"", 0
    while match := _MARK.search(data, position):
        mark, position = match[0], match.end()
        if mark[:1] == b'"':
            key = mark
        elif mark in b"}]":
            path = path[:-1]
        elif path == [b"", b'"model"'] and (key, mark) in _FORMS:
            entries = Entries(data, _FORMS[key, mark], position)
            found[json.loads(key)] = entries, position
            position = entries.end + 1
        else:
            path, key = [*path, key], b""
    return found


_FORMS = {(b'"vocab"', b"{"): _TOKEN, (b'"merges"', b"["): _MERGE}  # other kinds of model write a vocabulary as a list


def _text(string: bytes) -> str:
    """Decode a JSON string."""
    return str(json.loads(string)) if b"\\" in string else string[1:-1].decode()
