"""What every family's tokenizer does, and how text is cut so that only a template's own words become special tokens.

A prompt is a list of segments (text, may hold special tokens). Special tokens are looked for inside the segments that
may hold them; all that lies between two of them is encoded in one piece, so that a template's words and a user's meet
in the tokenizer exactly as they did in the original's one string.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

Segment = tuple[str, bool]


class Tokenizer(Protocol):
    """Ids in, ids out.

    Attributes:
        vocab_size: every id is below it; a model's embedding may have more rows (padding), never fewer.
        bos_ids: what stands before a prompt; empty for families that put nothing there.
        suffix_ids: what stands between a prompt and the answer (ChatGLM's [gMASK] <sop>); mostly empty.
        eos_ids: each of them ends an answer.
        special_ids: control tokens; they have no text and no user's text becomes one.
        drops_first_blank: the first token of a text carries a blank that is not in the text (SentencePiece).
    """

    vocab_size: int
    bos_ids: list[int]
    suffix_ids: list[int]
    eos_ids: frozenset[int]
    special_ids: frozenset[int]
    drops_first_blank: bool

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text` by itself, without `bos_ids` and `suffix_ids`.

        Args:
            special: spellings of special tokens become those tokens (a template's own text); else they stay text.
        """
        ...

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        """Ids of a rendered prompt, without `bos_ids` and `suffix_ids`."""
        ...

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for: a special token's spelling, b"" for a row of padding.

        The bytes of ids put one after the other are their text, but for `drops_first_blank`.
        """
        ...

    def id_of(self, spelling: str) -> int | None:
        """The id of one token by its spelling in the vocabulary, or None."""
        ...


class StreamingDetokenizer:
    """Text of tokens as they come: `push` gives what is complete, never half a character.

    Args:
        starts_text: these tokens begin a text, so the blank that SentencePiece puts in front is dropped; False when
            they carry on a text.
    """

    def __init__(self, tokenizer: Tokenizer, *, starts_text: bool = True) -> None:
        self._tokenizer = tokenizer
        self._drop = starts_text and tokenizer.drops_first_blank
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push_bytes(self, token_id: int, *, skip_special: bool = True) -> bytes:
        """The bytes of the next token; none for a special one."""
        if skip_special and token_id in self._tokenizer.special_ids:
            return b""
        data = self._tokenizer.token_bytes(token_id)
        if self._drop and data:
            self._drop = False
            data = data.removeprefix(b" ")
        return data

    def push(self, token_id: int, *, skip_special: bool = True) -> str:
        return self._utf8.decode(self.push_bytes(token_id, skip_special=skip_special))

    def finish(self) -> str:
        """What is left of a character that never ended."""
        return self._utf8.decode(b"", final=True)


def decode_bytes(tokenizer: Tokenizer, ids: Iterable[int], skip_special: bool = True) -> str:
    """`Tokenizer.decode` by way of `token_bytes`."""
    parts = [tokenizer.token_bytes(i) for i in ids if not (skip_special and i in tokenizer.special_ids)]
    if tokenizer.drops_first_blank and parts:
        parts[0] = parts[0].removeprefix(b" ")
    return b"".join(parts).decode("utf-8", errors="replace")


class SpecialTokens:
    """Spellings → ids, and where they stand in a prompt. Of two that begin at one place the longer is taken."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = dict(ids)
        longest_first = sorted((s for s in ids if s), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def cut(self, segments: Sequence[Segment]) -> list[str | int]:
        """The prompt as runs of plain text and the ids between them, in order, without empty runs."""
        cut: list[str | int] = []
        run = ""
        for text, may_hold in segments:
            start = 0
            for match in self._pattern.finditer(text) if may_hold and self._pattern else ():
                run += text[start : match.start()]
                cut += [run, self.ids[match[0]]] if run else [self.ids[match[0]]]
                run, start = "", match.end()
            run += text[start:]
        return [*cut, run] if run else cut

    def split_spellings(self, text: str) -> list[str]:
        """`text` cut inside each spelling, after its first character, so that no part holds one."""
        parts: list[str] = []
        start = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            parts.append(text[start : match.start() + 1])
            start = match.start() + 1
        return [*parts, text[start:]]
