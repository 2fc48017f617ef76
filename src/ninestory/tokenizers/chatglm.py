"""ChatGLM-6B's tokenizer (`ice_text.model`): SentencePiece after rewriting newlines, tabs and runs of spaces.

Encoding, decoding, and the chat's prompt and response rules; no torch. Source: THUDM/chatglm-6b, tokenization_chatglm.py
and the chat() of modeling_chatglm.py, final revisions. v0.1 checkpoints carry 20,000 image tokens before the text ids
(`num_image_tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ninestory.tokenizers.tokenizer import Segment, decode_bytes

MAX_BLANK_RUN = 80
# Parsed as special tokens in text; "[gMASK]" is not among them, because the original's config does not list it.
_TYPED_SPECIALS = ("<sop>", "<eop>", "[MASK]", "<pad>", "<unk>")
_BLANKS = re.compile(r"<\|blank_(\d+)\|>")
_DATE, _DATE_TEXT = "[[训练时间]]", "2023年"
_HALF_TO_FULL = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}


class ChatGLMTokenizer:
    """SentencePiece tokenizer with ChatGLM's whitespace tokens; encodes and decodes as the original does.

    Args:
        path: the SentencePiece model file.
        num_image_tokens: 20000 for the v0.1 vocabulary (150,528 rows), else 0.
    """

    drops_first_blank = True

    def __init__(self, path: Path, num_image_tokens: int = 0) -> None:
        import sentencepiece

        self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.offset = num_image_tokens
        self.vocab_size = self.model.get_piece_size() + num_image_tokens
        self.pad_id, self.mask_id, self.gmask_id = (self.id_of(p) for p in ("<pad>", "[MASK]", "[gMASK]"))
        self.sop_id, self.eop_id = self.id_of("<sop>"), self.id_of("<eop>")
        self.bos_ids: list[int] = []
        self.suffix_ids = [self.gmask_id, self.sop_id]
        self.eos_ids = frozenset({self.eop_id})
        silent = [i for i in range(self.model.get_piece_size()) if self.model.is_control(i) or self.model.is_unknown(i)]
        self.special_ids = frozenset(
            {i + self.offset for i in silent} | {self.id_of(p) for p in (*_TYPED_SPECIALS, "[gMASK]")}
        )

    def id_of(self, spelling: str) -> int:
        return self.model.piece_to_id(spelling) + self.offset

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Encode `text` without the trailing [gMASK] <sop>.

        Args:
            special: parse `<sop>`, `<eop>`, `[MASK]`, `<pad>` and `<unk>` as special tokens, as the original does.
                Off by default, because a user's text must not end a turn.
        """
        if not special:
            return self._encode_plain(text)
        pattern = "|".join(re.escape(t) for t in _TYPED_SPECIALS)
        ids: list[int] = []
        parts = re.split(f"({pattern})", text)
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self.id_of(part))
            else:  # the slow tokenizer of transformers 4.27 strips the blanks next to a special token
                part = part.lstrip() if i > 0 else part
                part = part.rstrip() if i < len(parts) - 1 else part
                ids += self._encode_plain(part)
        return ids

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        """Encode a prompt as one text: the family's prompt formats contain no special tokens."""
        return self._encode_plain("".join(text for text, _ in segments))

    def encode_prompt(self, text: str, *, special: bool = False) -> list[int]:
        """Encode a prompt, followed by [gMASK] and <sop>."""
        return [*self.encode(text, special=special), *self.suffix_ids]

    def encode_pair(self, prompt: str, answer: str) -> list[int]:
        """Encode a complete turn: prompt, [gMASK], <sop>, answer, <eop>."""
        return [*self.encode_prompt(prompt), *self.encode(answer), self.eop_id]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Decode `ids`; special tokens and padding are dropped, or written out if `skip_special` is False."""
        if not skip_special:
            return decode_bytes(self, ids, skip_special=False)
        kept = [i - self.offset for i in ids if i != self.pad_id and i >= self.offset]
        text = self.model.decode(kept)
        text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
        return _BLANKS.sub(lambda m: " " * int(m[1]), text)

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of one token, with newlines, tabs and runs of spaces restored."""
        number = token_id - self.offset
        if not 0 <= number < self.model.get_piece_size():
            return b""
        piece: str = self.model.id_to_piece(number)
        if self.model.is_byte(number):
            return bytes([int(piece[3:5], 16)])
        if run := _BLANKS.fullmatch(piece):
            return b" " * int(run[1])
        return {"<n>": b"\n", "<|tab|>": b"\t"}.get(piece, piece.replace("▁", " ").encode())

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self.model.id_to_piece(i - self.offset) for i in ids]

    def _encode_plain(self, text: str) -> list[int]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        for run in range(MAX_BLANK_RUN, 1, -1):
            text = text.replace(" " * run, f"<|blank_{run}|>")
        # SentencePiece does not match control pieces in text, so a typed `<sop>` stays what it looks like.
        return [i + self.offset for i in self.model.encode(text)]


def chat_prompt(query: str, history: Sequence[tuple[str, str]] = (), *, first_round: bool = False) -> str:
    """The chat's prompt, byte for byte.

    >>> chat_prompt("你好")
    '你好'
    >>> chat_prompt("你好", [("hi", "hello")])
    '[Round 0]\\n问：hi\\n答：hello\\n[Round 1]\\n问：你好\\n答：'

    Args:
        first_round: write the `[Round 0]` form even without history (training data with a history column does).
    """
    if not history and not first_round:
        return query
    rounds = "".join(f"[Round {i}]\n问：{q}\n答：{a}\n" for i, (q, a) in enumerate(history))
    return f"{rounds}[Round {len(history)}]\n问：{query}\n答："


def process_response(text: str) -> str:
    """The chat's clean-up of an answer: half-width marks next to a Chinese character become full-width.

    >>> process_response(" 你好,world! ")
    '你好，world!'
    """
    text = text.strip().replace(_DATE, _DATE_TEXT)
    for half, full in _HALF_TO_FULL.items():
        mark = re.escape(half)
        text = re.sub(f"([\u4e00-\u9fff]){mark}", rf"\g<1>{full}", text)
        text = re.sub(f"{mark}([\u4e00-\u9fff])", rf"{full}\g<1>", text)
    return text


class ResponseStream:
    """Streaming `process_response`: text that later input may still change is held back."""

    def __init__(self) -> None:
        self._held, self._before = "", ""

    def push(self, text: str) -> str:
        """Append `text`; return the part that can no longer change."""
        self._held = (self._held + text).replace(_DATE, _DATE_TEXT)
        if not self._before:
            self._held = self._held.lstrip()
        settled = self._held.rstrip()
        settled = settled[: len(settled) - _begun(settled)]
        if settled[-1:] in _HALF_TO_FULL:  # what follows decides
            settled = settled[:-1]
        return self._settle(settled)

    def finish(self) -> str:
        """Return the held-back text at the end of the answer."""
        return self._settle(self._held.rstrip())

    def _settle(self, settled: str) -> str:
        context = self._before + self._held
        begin = len(self._before)
        text = "".join(_full_width(context, begin + i) for i in range(len(settled)))
        self._before = settled[-1:] or self._before
        self._held = self._held[len(settled) :]
        return text


def _begun(text: str) -> int:
    """Number of trailing characters that may be the start of the date placeholder."""
    return next((n for n in range(len(_DATE) - 1, 0, -1) if text.endswith(_DATE[:n])), 0)


def _full_width(text: str, at: int) -> str:
    """The character at `at`, converted to full width if it is punctuation next to a Chinese character."""
    beside = text[max(at - 1, 0) : at] + text[at + 1 : at + 2]
    return _HALF_TO_FULL.get(text[at], text[at]) if re.search("[\u4e00-\u9fff]", beside) else text[at]
