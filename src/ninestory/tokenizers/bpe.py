"""BPE tokenizers in Hugging Face's format (`tokenizer.json`, or GPT-2's vocab.json and merges.txt).

BLOOM, Falcon, GPT-J, MOSS, LLaMA-3 and RWKV's 20B vocabulary. The `tokenizers` library does the work, twice: one
instance parses special tokens, the other treats them as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged
from ninestory.tokenizers.tokenizer import Segment, SpecialTokens, decode_bytes
from ninestory.tokenizers.tokenizer_json import call_native, check_tokenizer_json

_CONTROL = re.compile(r"<[^<>\s]+>|\[[A-Z0-9_]+\]")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_CARRIED_ON = "\U000f0000ninestory\U000f0000"  # sentinel for "text precedes this"; its id is removed


class BpeTokenizer:
    """Encode and decode.

    Args:
        description: a `tokenizer.json`, parsed.
        special: additional special tokens (from tokenizer_config.json), text → id.
        eos_ids: ids that end an answer.
        adds_bos: overrides whether a BOS token is prepended; None follows tokenizer.json.

    Raises:
        Damaged: the `tokenizers` library rejects the description.
    """

    def __init__(
        self,
        description: dict[str, Any],
        special: Mapping[str, int] | None = None,
        *,
        eos_ids: Iterable[int] = (),
        bos_id: int | None = None,
        adds_bos: bool | None = None,
    ) -> None:
        from tokenizers import AddedToken, Tokenizer

        description = check_tokenizer_json(description)
        added = {t["content"]: t for t in description.get("added_tokens", [])}
        for spelling, number in (special or {}).items():
            known = added.setdefault(spelling, {"content": spelling, "id": number, **_PLAIN_ADDED})
            known["special"] = True
        for token in added.values():  # checkpoints rarely mark their control tokens as special
            token["special"] = token["special"] or bool(_CONTROL.fullmatch(token["content"]))
        description = {**description, "added_tokens": sorted(added.values(), key=lambda t: t["id"])}
        try:
            self._model = call_native(lambda: Tokenizer.from_str(json.dumps(description)))
        except Damaged:
            raise
        except Exception as error:  # the library raises plain Exception
            raise Damaged(
                f"tokenizer.json is invalid: {error}.",
                hint="Download it again (ninestory pull).",
                hint_zh="请重新下载（ninestory pull）。",
            ) from error
        self._added = {t["id"]: t["content"] for t in added.values()}
        for number, spelling in self._added.items():
            if self._model.token_to_id(spelling) != number:
                raise Damaged(
                    f"The added token {spelling!r} has id {self._model.token_to_id(spelling)}; expected {number}.",
                    hint="Use tokenizer files from one release.",
                    hint_zh="请使用同一版本的全部分词器文件。",
                )
        self._special = SpecialTokens({t["content"]: t["id"] for t in added.values() if t["special"]})
        self._strips = {t["id"]: (t["lstrip"], t["rstrip"]) for t in added.values() if t["special"]}
        self.special_ids = frozenset(self._special.ids.values())
        vocabulary = self._model.get_vocab(with_added_tokens=True)
        self._pieces = {number: piece for piece, number in vocabulary.items()}
        self.vocab_size = max(self._pieces, default=-1) + 1
        template_ids = self._model.encode("", add_special_tokens=True).ids
        by_file = [i for i in template_ids if i not in frozenset(eos_ids)]
        self.bos_ids: list[int] = by_file
        if adds_bos is not None:
            self.bos_ids = ([bos_id] if bos_id is not None else by_file) if adds_bos else []
        self.suffix_ids: list[int] = []
        self.eos_ids = frozenset(eos_ids)
        self._byte_level = _uses_bytes(description)
        self.drops_first_blank = not self._byte_level
        self._first_only = '"prepend_scheme": "first"' in json.dumps(description.get("pre_tokenizer"))
        self._model.encode_special_tokens = True
        if self._first_only:
            self._model.add_tokens([AddedToken(_CARRIED_ON, normalized=False)])
        self._carried_on = self._model.token_to_id(_CARRIED_ON)

    @classmethod
    def from_gpt2_files(cls, directory: Path, added: Mapping[str, int], **settings: Any) -> BpeTokenizer:
        """Load GPT-2's vocab.json and merges.txt, plus `added` tokens (text → id).

        Raises:
            Damaged: a file is missing or malformed.
        """
        try:
            vocabulary = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
            lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
            merges = [line.rstrip("\r").split(" ") for line in lines if line and not line.startswith("#version")]
        except (ValueError, OSError) as error:
            raise Damaged(
                f"vocab.json or merges.txt cannot be read: {error}.",
                hint="Download them again.",
                hint_zh="请重新下载。",
            ) from error
        by_id = {i: {"content": s, "id": i, **_PLAIN_ADDED} for s, i in added.items()}
        return cls(
            {
                "version": "1.0",
                "added_tokens": list(by_id.values()),
                "pre_tokenizer": {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": True,
                },
                "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
            },
            **settings,
        )

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self.encode_segments([(text, special)])

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []
        parts = self._special.cut(segments)
        for i, part in enumerate(parts):
            if isinstance(part, int):
                ids.append(part)
                continue
            before, after = parts[i - 1] if i else None, parts[i + 1] if i + 1 < len(parts) else None
            text = part.lstrip() if isinstance(before, int) and self._strips[before][1] else part
            text = text.rstrip() if isinstance(after, int) and self._strips[after][0] else text
            ids += self._plain(text, begins=i == 0)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        return decode_bytes(self, ids, skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._pieces.get(token_id)
        if piece is None:
            return b""
        if self._byte_level:
            table = _byte_of_character()
            return bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()
        if byte := _BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return piece.replace("▁", " ").encode()

    def id_of(self, spelling: str) -> int | None:
        token_id: int | None = self._model.token_to_id(spelling)
        return token_id

    def _plain(self, text: str, begins: bool) -> list[int]:
        """Encode plain text; some tokenizers add a leading space only at the start of a prompt."""
        if not text:
            return []
        if begins or not self._first_only:
            return self._encoded(text)
        ids = self._encoded(_CARRIED_ON + text)
        return [i for i in ids if i != self._carried_on]

    def _encoded(self, text: str) -> list[int]:
        return call_native(lambda: list(self._model.encode(text, add_special_tokens=False).ids))


_PLAIN_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def _uses_bytes(description: dict[str, Any]) -> bool:
    """Whether pieces use GPT-2's byte alphabet (otherwise plain text, with ▁ for a space)."""
    return '"ByteLevel"' in json.dumps([description.get("decoder"), description.get("pre_tokenizer")])


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte alphabet: printable bytes map to themselves, the others to characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
