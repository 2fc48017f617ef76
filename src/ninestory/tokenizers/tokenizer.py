"""The tokenizer protocol, and splitting of prompts so that only a template's own text becomes special tokens.

A prompt is a list of segments (text, may contain special tokens). Special tokens are recognised only inside segments
that may contain them. The text between two special tokens is encoded as one string, so merges across a segment
boundary are the same as in the original implementation.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

Segment = tuple[str, bool]


class Tokenizer(Protocol):
    """Interface of every tokenizer.

    Attributes:
        vocab_size: upper bound of the ids; a model's embedding may have more rows (padding), never fewer.
        bos_ids: ids prepended to a prompt; empty for families without a BOS token.
        suffix_ids: ids between the prompt and the answer (ChatGLM's [gMASK] <sop>); empty for most families.
        eos_ids: ids that end an answer.
        special_ids: control tokens; they decode to no text, and user text never encodes to one.
        drops_first_blank: the first token of a text has a leading space that the text lacks (SentencePiece).
    """

    vocab_size: int
    bos_ids: list[int]
    suffix_ids: list[int]
    eos_ids: frozenset[int]
    special_ids: frozenset[int]
    drops_first_blank: bool

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Encode `text`, without `bos_ids` and `suffix_ids`.

        Args:
            special: parse special tokens in `text` (a template's own text); otherwise they are plain text.
        """
        ...

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        """Encode a rendered prompt, without `bos_ids` and `suffix_ids`."""
        ...

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Decode `ids`; invalid UTF-8 becomes U+FFFD."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of one token: a special token's own text, b"" for a padding row.

        Concatenated, they are the decoded text, except for `drops_first_blank`.
        """
        ...

    def id_of(self, spelling: str) -> int | None:
        """Id of a token by its text in the vocabulary, or None."""
        ...


class StreamingDetokenizer:
    """Incremental decoder: `push` returns only complete UTF-8 characters.

    Args:
        starts_text: drop the leading space that SentencePiece adds; False if the tokens continue an earlier text.
    """

    def __init__(self, tokenizer: Tokenizer, *, starts_text: bool = True) -> None:
        self._tokenizer = tokenizer
        self._drop = starts_text and tokenizer.drops_first_blank
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push_bytes(self, token_id: int, *, skip_special: bool = True) -> bytes:
        """Bytes of the next token; empty for a special token."""
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
        """Flush: U+FFFD if the text ends inside a character, else an empty string."""
        return self._utf8.decode(b"", final=True)


def decode_bytes(tokenizer: Tokenizer, ids: Iterable[int], skip_special: bool = True) -> str:
    """Decode through `token_bytes`, for tokenizers without a decoder of their own."""
    parts = [tokenizer.token_bytes(i) for i in ids if not (skip_special and i in tokenizer.special_ids)]
    if tokenizer.drops_first_blank and parts:
        parts[0] = parts[0].removeprefix(b" ")
    return b"".join(parts).decode("utf-8", errors="replace")


class SpecialTokens:
    """Special tokens by their text, and the splitting of prompts at them. The longest match wins."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = dict(ids)
        longest_first = sorted((s for s in ids if s), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def cut(self, segments: Sequence[Segment]) -> list[str | int]:
        """Split the prompt into plain text and special-token ids, in order, without empty texts."""
        parts: list[str | int] = []
        run = ""
        for text, may_hold in segments:
            start = 0
            for match in self._pattern.finditer(text) if may_hold and self._pattern else ():
                run += text[start : match.start()]
                parts += [run, self.ids[match[0]]] if run else [self.ids[match[0]]]
                run, start = "", match.end()
            run += text[start:]
        return [*parts, run] if run else parts

    def split_spellings(self, text: str) -> list[str]:
        """Split `text` after the first character of each special token, so that no part contains one."""
        parts: list[str] = []
        start = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            parts.append(text[start : match.start() + 1])
            start = match.start() + 1
        return [*parts, text[start:]]
