"""LLaMA-style tokenizer: a SentencePiece model (`tokenizer.model`) with added tokens.

The library itself is used, not a rebuilt merge list: transformers 5 makes one from the same file that gives other ids
for one text in seven, because it forgets the scores of the runs of blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ninestory.core.errors import Damaged
from ninestory.tokenizers.tokenizer import Segment, SpecialTokens, decode_bytes

_BLANK = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_LOOKS_LIKE_CONTROL = re.compile(r"<\|[^<>]+\|>|</?s>|<(pad|unk|mask|bos|eos)>|\[(PAD|UNK|MASK)\]", re.IGNORECASE)


class SentencePieceTokenizer:
    """Encode and decode.

    Args:
        path: the SentencePiece model.
        added: tokens beside the model that text may contain → id.
        special: end marks and the like beside the model → id.
        eos_ids: ids that end an answer; the model's own `</s>` when empty.
        adds_bos: the family puts the model's `<s>` before a prompt.
        legacy: text after a special token gets a leading space, as at the start of a prompt. False for checkpoints
            with `"legacy": false`.

    Raises:
        Damaged: the library cannot read the model.
    """

    drops_first_blank = True

    def __init__(
        self,
        path: Path,
        added: Mapping[str, int] | None = None,
        special: Mapping[str, int] | None = None,
        *,
        eos_ids: Iterable[int] = (),
        adds_bos: bool = True,
        legacy: bool = True,
    ) -> None:
        import sentencepiece

        try:
            self._model = model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise Damaged(
                f"{path.name} is not a SentencePiece model.",
                hint="Download it again (ninestory pull).",
                hint_zh="请重新下载（ninestory pull）。",
            ) from error
        self._size: int = model.get_piece_size()
        pieces = {model.id_to_piece(i): i for i in range(self._size)}
        inside = {p: i for p, i in pieces.items() if model.is_control(i) or model.is_unknown(i)}
        # A user-defined piece is matched in any text; one that looks like an end mark must not be.
        typed = {p: i for p, i in pieces.items() if _LOOKS_LIKE_CONTROL.fullmatch(p) and p not in inside}
        self._typed = SpecialTokens(typed)
        outside = {**(added or {}), **(special or {})}
        self._beyond = {i: s for s, i in outside.items() if i >= self._size}
        self._special = SpecialTokens({**inside, **typed, **(special or {})})
        self._added = SpecialTokens(added or {})
        self.vocab_size = max([self._size - 1, *self._beyond]) + 1
        self.special_ids = frozenset(self._special.ids.values())
        self.bos_ids: list[int] = [model.bos_id()] if adds_bos and model.bos_id() >= 0 else []
        self.suffix_ids: list[int] = []
        self.eos_ids = frozenset(eos_ids) or frozenset({model.eos_id()} - {-1})
        self._legacy = legacy
        # Encoding a line break first keeps the library from putting a blank in front; it joins with nothing.
        self._break = "\n"
        self._break_ids: list[int] = model.encode(self._break)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self.encode_segments([(text, special)])

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []
        for part in self._special.cut(segments):
            if isinstance(part, int):
                ids.append(part)
                continue
            for inner in self._added.cut([(part, True)]):
                blank = self._legacy or not ids
                ids += [inner] if isinstance(inner, int) else self._plain(inner, blank)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        return decode_bytes(self, ids, skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._beyond:
            return self._beyond[token_id].encode()
        if not 0 <= token_id < self._size:
            return b""
        piece: str = self._model.id_to_piece(token_id)
        if self._model.is_byte(token_id) and (byte := _BYTE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        return piece.replace(_BLANK, " ").encode()

    def id_of(self, spelling: str) -> int | None:
        for known in (self._special.ids, self._added.ids):
            if spelling in known:
                return known[spelling]
        token_id: int = self._model.piece_to_id(spelling)
        return token_id if self._model.id_to_piece(token_id) == spelling else None

    def _plain(self, text: str, blank: bool) -> list[int]:
        """Encode plain text; with `blank`, SentencePiece's leading space is kept."""
        first, *rest = self._typed.split_spellings(text)
        ids: list[int] = self._model.encode(first) if blank else self._carried_on(first)
        for part in rest:
            ids += self._carried_on(part)
        return ids

    def _carried_on(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(self._break + text)
        if ids[: len(self._break_ids)] != self._break_ids:
            raise Damaged(
                "tokenizer.model merges a newline with the text after it, so a continuation cannot be encoded.",
                hint="Use the tokenizer that was published with these weights.",
                hint_zh="请使用与权重一同发布的分词器。",
            )
        return ids[len(self._break_ids) :]
