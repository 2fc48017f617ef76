"""RWKV's two tokenizers, without torch: World (65,536 entries, greedy over bytes) and GPT-NeoX's BPE (50,277).

The number of embedding rows selects one of them (`load_rwkv_tokenizer`).
"""

from __future__ import annotations

import ast
import json
import lzma
from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Protocol

from ninestory.core.errors import Damaged, MissingExtra, Unsupported
from ninestory.tokenizers.bpe import BpeTokenizer
from ninestory.tokenizers.tokenizer import Segment, Tokenizer

WORLD_FILE, NEOX_FILE = "rwkv_vocab_v20230424.txt", "20B_tokenizer.json"
WORLD_ROWS, NEOX_ROWS = 65536, 50277
MAX_LINE = 4096  # the longest entry has 128 bytes, four characters each when escaped
_REPLACEMENT = "\ufffd"


class RwkvTokenizer(Tokenizer, Protocol):
    """Interface of both tokenizers. `end_of_text` is 0 in both vocabularies; `encode` never returns it."""

    end_of_text: int
    newline: int
    double_newline: int

    def encode_opening(self, text: str) -> list[int]:
        """Encode the opening text of a chat."""
        ...


def load_rwkv_tokenizer(rows: int, folder: Path | None = None) -> RwkvTokenizer:
    """Load the tokenizer of a model with `rows` embedding rows.

    Args:
        folder: the model's directory; a vocabulary file in it takes precedence over the packaged one.

    Raises:
        Unsupported: no RWKV vocabulary has `rows` entries. Damaged: the vocabulary file is malformed.
        MissingExtra: the package that carries the World vocabulary is not installed.
    """
    if rows == WORLD_ROWS:
        beside = folder / WORLD_FILE if folder else None
        return WorldTokenizer(beside if beside and beside.is_file() else packaged_world_vocabulary())
    if rows == NEOX_ROWS:
        beside = folder / NEOX_FILE if folder else None
        return NeoxTokenizer(beside if beside and beside.is_file() else None)
    raise Unsupported(
        f"The embedding has {rows} rows; RWKV's vocabularies have {WORLD_ROWS} (World) and {NEOX_ROWS} (pile, Raven).",
        hint="Use a published RWKV checkpoint; custom vocabularies are not supported.",
        hint_zh="请使用官方发布的 RWKV 检查点；自定义词表的模型无法识别。",
        param="model",
    )


def packaged_world_vocabulary() -> Path:
    """Path of the vocabulary file in the installed `rwkv` package (read, never imported)."""
    try:
        return Path(str(distribution("rwkv").locate_file(f"rwkv/{WORLD_FILE}")))
    except PackageNotFoundError:
        raise MissingExtra(
            "The World vocabulary of RWKV is not installed.",
            hint=f"Run pip install 'ninestory[torch]', or put {WORLD_FILE} next to the model's file.",
            hint_zh=f"请运行 pip install 'ninestory[torch]'，或把 {WORLD_FILE} 放在模型文件旁边。",
        ) from None


class WorldTokenizer:
    """Greedy longest match over UTF-8 bytes; every single byte is an entry, so anything encodes.

    Args:
        path: lines `id literal byte_length`, the literal being Python's of a str or bytes.
    """

    end_of_text = 0
    vocab_size = WORLD_ROWS
    drops_first_blank = False

    def __init__(self, path: Path) -> None:
        self.bos_ids: list[int] = []
        self.suffix_ids: list[int] = []
        self.eos_ids = self.special_ids = frozenset({self.end_of_text})
        self._bytes = _read_world(path)
        self._ids = {entry: number for number, entry in self._bytes.items()}
        lengths: dict[bytes, set[int]] = {}
        for entry in self._ids:
            lengths.setdefault(entry[:2], set()).add(len(entry))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        self.newline, self.double_newline = self._ids[b"\n"], self._ids[b"\n\n"]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self.encode_bytes(text.encode("utf-8", errors="replace"))

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        return self.encode("".join(text for text, _ in segments))

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes.get(token_id, b"")

    def id_of(self, spelling: str) -> int | None:
        return self._ids.get(spelling.encode("utf-8", errors="replace"))

    def encode_opening(self, text: str) -> list[int]:
        return self.encode(text)

    def encode_bytes(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            start = data[at : at + 2]
            entry = next((e for n in self._lengths.get(start, ()) if (e := data[at : at + n]) in self._ids), start[:1])
            ids.append(self._ids[entry])
            at += len(entry)
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Decode `ids` to bytes.

        Raises:
            KeyError: an id is not in the vocabulary, such as 0 (end of text).
        """
        return b"".join(self._bytes[number] for number in ids)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Decode `ids`; a single U+FFFD if the bytes are incomplete UTF-8 (then wait for the next token).

        Same as the original. End of text has no bytes, so it raises unless it is skipped.
        """
        try:
            return self.decode_bytes(i for i in ids if not (skip_special and i == self.end_of_text)).decode()
        except (KeyError, UnicodeDecodeError):
            return _REPLACEMENT


def _read_world(path: Path) -> dict[int, bytes]:
    """Parse the vocabulary into id → bytes; each line's stated length is checked."""
    entries: dict[int, bytes] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                head, tail = line.index(" "), line.rindex(" ")
                if len(line) > MAX_LINE or line[head + 1] not in "'\"b":
                    raise ValueError(f"line {number} is malformed; expected `id literal byte_length`")
                literal = ast.literal_eval(line[head + 1 : tail])  # one literal of text, never evaluated
                entry = literal.encode() if isinstance(literal, str) else literal
                if not isinstance(entry, bytes) or len(entry) != int(line[tail:]):
                    raise ValueError(f"line {number} states a wrong length")
                entries[int(line[:head])] = entry
    except (OSError, ValueError, SyntaxError, IndexError, RecursionError, MemoryError) as error:
        raise _no_vocabulary(path, str(error)) from error
    whole = len(set(entries.values())) == len(entries) and {bytes([b]) for b in range(256)} <= set(entries.values())
    if not whole or b"\n\n" not in entries.values() or not all(0 < i < WORLD_ROWS for i in entries):
        raise _no_vocabulary(path, "single bytes are missing, an entry is duplicated or an id is out of range")
    return entries


class NeoxTokenizer(BpeTokenizer):
    """GPT-NeoX-20B's byte-level BPE. An end-of-text token typed by a user is plain text.

    Args:
        path: a `20B_tokenizer.json`; None takes the one that comes with ninestory.
    """

    end_of_text = 0
    newline, double_newline = 187, 535

    def __init__(self, path: Path | None = None) -> None:
        packaged = resources.files("ninestory.catalog") / "vocabularies" / "gpt-neox-20b.json.xz"
        try:
            described = json.loads(path.read_bytes() if path else lzma.decompress(packaged.read_bytes()))
            super().__init__(described, eos_ids=[self.end_of_text], adds_bos=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, Damaged) as error:
            raise _no_vocabulary(path or Path(str(packaged)), str(error)) from error
        found = (self.id_of("Ċ"), self.id_of("ĊĊ"))
        if found != (self.newline, self.double_newline):
            raise _no_vocabulary(path or Path(str(packaged)), f"its line breaks have the ids {found}")

    def encode_opening(self, text: str) -> list[int]:
        """A chat's opening text: Raven was trained with two single line breaks where BPE makes a double one."""
        ids = self.encode(text)
        return [*ids[:-1], self.newline, self.newline] if ids[-1:] == [self.double_newline] else ids


def _no_vocabulary(path: Path, why: str) -> Damaged:
    return Damaged(
        f"{path.name} is not an RWKV vocabulary: {why[:200]}.",
        hint="Download the file again from the model's publisher, or remove it: ninestory includes a copy.",
        hint_zh="请从模型发布者处重新获取该文件，或将其删除：ninestory 自带一份。",
    )
