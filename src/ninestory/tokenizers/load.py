"""Loading of a checkpoint's tokenizer, by the files in its directory; without torch, without the checkpoint's code.

Serving, training and conversion all call `load_tokenizer`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, NotFound
from ninestory.core.json_file import read_json
from ninestory.tokenizers.tokenizer import Tokenizer

OLD_CHATGLM_ROWS, IMAGE_TOKENS = 150528, 20000  # ChatGLM-6B v0.1 numbers its pieces behind 20,000 image tokens
_MARKS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_CONTROL = re.compile(r"<[^<>\s]+>|\[[A-Z0-9_]+\]")


def load_tokenizer(path: Path, rows: int = 0) -> Tokenizer:
    """Load the tokenizer of a checkpoint directory, or of a single weights file (RWKV).

    Args:
        rows: number of embedding rows; selects one of RWKV's two vocabularies for a single file.

    Raises:
        Unsupported: RWKV has no vocabulary with `rows` entries.
        NotFound: the directory has no tokenizer files.
        Damaged: the files cannot be read, or contradict one another.
    """
    if path.is_file():
        from ninestory.tokenizers.rwkv import load_rwkv_tokenizer

        return load_rwkv_tokenizer(rows, path.parent)
    directory = path
    side = _SideFiles.read(directory)
    if (directory / "ice_text.model").is_file():
        from ninestory.tokenizers.chatglm import ChatGLMTokenizer

        return ChatGLMTokenizer(directory / "ice_text.model", side.image_tokens())
    if (directory / "tokenizer.model").is_file():
        from ninestory.tokenizers.sentencepiece_family import SentencePieceTokenizer

        return SentencePieceTokenizer(
            directory / "tokenizer.model",
            {s: i for s, i in side.added.items() if s not in side.special},
            side.special,
            eos_ids=side.eos_ids,
            adds_bos=side.settings.get("add_bos_token") is not False,
            legacy=side.settings.get("legacy") is not False,
        )
    from ninestory.tokenizers.bpe import BpeTokenizer

    settings: dict[str, Any] = {"special": side.special, "eos_ids": side.eos_ids}
    if (directory / "tokenizer.json").is_file():
        adds_bos = side.settings.get("add_bos_token")
        bos = side.special.get(side.marks.get("bos_token", ""))
        description = read_json(directory / "tokenizer.json")
        return BpeTokenizer(description, bos_id=bos, adds_bos=adds_bos, **settings)
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return BpeTokenizer.from_gpt2_files(directory, side.added, **settings)
    raise NotFound(
        f"{directory} has no tokenizer; expected tokenizer.model, tokenizer.json or ice_text.model.",
        hint="Copy tokenizer.model, tokenizer.json, ice_text.model, or vocab.json and merges.txt of this release here.",
        hint_zh="请将同一版本的 tokenizer.model、tokenizer.json、ice_text.model 或 vocab.json 与 merges.txt 复制到此处。",
        param="model",
        code="no_tokenizer",
    )


@dataclass(frozen=True)
class _SideFiles:
    """Settings from the JSON files next to a vocabulary.

    settings: tokenizer_config.json. marks: role ("eos_token", …) → token text. added: added token → id; special: the
    added tokens that are special. eos_ids: union of generation_config.json, config.json and the tokenizer.
    """

    config: dict[str, Any]
    settings: dict[str, Any]
    marks: dict[str, str]
    added: dict[str, int]
    special: dict[str, int]
    eos_ids: frozenset[int]

    @classmethod
    def read(cls, directory: Path) -> _SideFiles:
        names = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
        config, settings, marks_file, added_file = (read_json(directory / name) for name in names)
        generation = read_json(directory / "generation_config.json")
        marks = {m: _spelling(table[m]) for table in (settings, marks_file) for m in _MARKS if table.get(m)}
        entries = [(e.get("content"), i, e.get("special")) for i, e in settings.get("added_tokens_decoder", {}).items()]
        entries += [(spelling, number, None) for spelling, number in added_file.items()]
        entries += [(e.get("content"), e.get("id"), e.get("special")) for e in _in_tokenizer_json(directory)]
        marked = {*marks.values(), *map(_spelling, marks_file.get("additional_special_tokens") or [])}
        added: dict[str, int] = {}
        special: dict[str, int] = {}
        for spelling, number, is_special in entries:
            if not isinstance(spelling, str) or not str(number).isdecimal():
                raise Damaged(
                    f"The added token {str(spelling)[:80]!r} of {directory} has the id {str(number)[:80]!r}.",
                    hint="Use tokenizer files from one release.",
                    hint_zh="请使用同一版本的全部分词器文件。",
                )
            added[spelling] = int(number)
            if is_special or spelling in marked or _CONTROL.fullmatch(spelling):
                special[spelling] = int(number)
        vocabulary = read_json(directory / "vocab.json")
        special |= {s: vocabulary[s] for s in marked if s not in added and isinstance(vocabulary.get(s), int)}
        eos = {special[marks["eos_token"]]} if marks.get("eos_token") in special else set()
        for table in (generation, config):
            named = table.get("eos_token_id")
            eos |= {i for i in (named if isinstance(named, list) else [named]) if type(i) is int and i >= 0}
        return cls(config, settings, marks, added, special, frozenset(eos))

    def image_tokens(self) -> int:
        """ChatGLM's number of image tokens: from the tokenizer's settings, else from the embedding rows."""
        stated = self.settings.get("num_image_tokens")
        if type(stated) is int:
            return stated
        return IMAGE_TOKENS if self.config.get("vocab_size") == OLD_CHATGLM_ROWS else 0


def _in_tokenizer_json(directory: Path) -> list[dict[str, Any]]:
    """Added tokens of a tokenizer.json next to a SentencePiece model."""
    if not (directory / "tokenizer.model").is_file():
        return []
    added = read_json(directory / "tokenizer.json").get("added_tokens", [])
    return [entry for entry in added if isinstance(entry, dict)]


def _spelling(mark: Any) -> str:
    """Text of a special token, which is stored as a string or as an object with `content`."""
    return str(mark.get("content", "")) if isinstance(mark, dict) else str(mark)
