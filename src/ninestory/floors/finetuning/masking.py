"""Loss masks: which tokens of a training text are learned, by each family's own rule, exact to its training code.

`mask_conversation` is what a recipe calls: messages in, ids and labels out, by the rule that belongs to the prompt format.

    row = mask_conversation(tokenizer, "vicuna-v1.1", messages, max_length=2048)

Rules, and whose they are:
- whole: one text is tokenised and the tokens that overlap an answer or its end are learned (Vicuna, and every format
  without a rule of its own). The original masks by counting tokens of the parts, and throws a conversation away where
  its counts disagree; this gives the same labels wherever it does not, and throws nothing away.
- prefix: the text and the part before the answer are tokenised, and the count of the latter is masked (Stanford
  Alpaca, alpaca-lora, Cornucopia).
- pieces: question and answer are tokenised apart and put together, so no token spans the border (Chinese-Alpaca, BELLE).
- ChatGLM (`chatglm_row`) and MOSS's plugin dialogues (`moss_row`) have their own.
Nothing is padded: batches are packed (`training.batches`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.floors.finetuning.formats import begins_with_greeting
from ninestory.models.templates import Piece, find_template, pieces_of, render
from ninestory.tokenizers.tokenizer import Tokenizer
from ninestory.training.batches import IGNORED, TokenRow

Messages = Sequence[Mapping[str, Any]]
_CHATGLM = ("chatglm-v1", "chatglm-v1-rounds")
MOSS_WINDOW = 2048


def mask_conversation(
    tokenizer: Tokenizer, template_id: str, messages: Messages, *, max_length: int, max_source: int | None = None
) -> TokenRow:
    """Ids and labels of one conversation, cut to `max_length` tokens.

    Args:
        messages: OpenAI-shaped with string content; the last is the assistant's. A user's may carry `input`.
        max_source: ChatGLM's own limit of the question; half of `max_length` when left out.

    Raises:
        InvalidRequest: a conversation that the format has no place for, or that does not end with an answer.
    """
    template = find_template(template_id)
    if not messages or messages[-1].get("role") != "assistant":
        raise InvalidRequest(
            "The conversation ends without an answer; expected the assistant's turn last.",
            hint="Leave the row out, or add its answer.",
            hint_zh="请删除该条数据，或补上回答。",
            param="messages",
        )
    if template_id in _CHATGLM:
        source = max_length // 2 if max_source is None else max_source
        prompt = render(template, messages[:-1])
        return chatglm_row(
            tokenizer, prompt, messages[-1]["content"], max_source=source, max_target=max_length - source
        )
    pieces = [p for p in pieces_of(template, messages, add_generation_prompt=False) if any(text for text, _ in p[0])]
    if begins_with_greeting(messages):  # context: it answers nothing
        greeting = next(i for i, (_, learned) in enumerate(pieces) if learned)
        pieces[greeting] = (pieces[greeting][0], False)
    bos = tokenizer.bos_ids if template.begin_token else []
    rule = _BY_RULE.get(template_id, by_overlap)
    if rule is _by_prefix and sum(learned for _, learned in pieces) > 1:
        rule = by_overlap  # counting a prefix masks all answers but the last
    row = rule(tokenizer, pieces, bos)
    return TokenRow(row.ids[:max_length], row.labels[:max_length])


def chatglm_row(tokenizer: Tokenizer, prompt: str, answer: str, *, max_source: int, max_target: int) -> TokenRow:
    """ChatGLM-6B's rule: question [gMASK] <sop> answer <eop>, learned from <sop> on (it is predicted from [gMASK])."""
    source = tokenizer.encode(prompt)[: max_source - 1]
    target = [*tokenizer.encode(answer)[: max_target - 2], *tokenizer.eos_ids]
    gmask, sop = tokenizer.suffix_ids
    return TokenRow([*source, gmask, sop, *target], [IGNORED] * (len(source) + 1) + [sop, *target])


def moss_row(tokenizer: Tokenizer, conversation: Mapping[str, Any], *, max_length: int = MOSS_WINDOW) -> TokenRow:
    """MOSS's rule: all is learned but the meta instruction and the inside of each tool's response.

    Args:
        conversation: `meta_instruction`, and `chat` with `turn_1` … whose values are the wire texts of its parts
            (`floors/chat/moss.py` writes them).

    A round that does not fit any more ends the text; a conversation of which no round fits gives an empty row.
    """
    ids = tokenizer.encode(conversation["meta_instruction"], special=True)
    head = len(ids)
    labels = [IGNORED] * head
    for number in range(1, len(conversation["chat"]) + 1):
        turn: list[int] = []
        learned: list[int] = []
        for part, text in conversation["chat"][f"turn_{number}"].items():
            tokens = tokenizer.encode(text, special=True)
            # The frame of a response is learned: its first five tokens and its last two.
            hidden = range(5, len(tokens) - 2) if part == "Tool Responses" else range(0)
            turn += tokens
            learned += [IGNORED if i in hidden else token for i, token in enumerate(tokens)]
        if len(ids) + len(turn) > max_length:
            break
        ids += turn
        labels += learned
    return TokenRow(ids, labels) if len(ids) > head else TokenRow([], [])


def text_blocks(
    tokenizer: Tokenizer, texts: Iterable[str], length: int, *, bos: bool = True, eos: bool = False
) -> list[TokenRow]:
    """Plain text for further pre-training: all texts put one after the other, pieces to `length`, the rest dropped.

    Args:
        bos, eos: put the begin token prefix, the end token suffix every text (Chinese-LLaMA: bos; BELLE: eos).
    """
    prefix, suffix = tokenizer.bos_ids if bos else [], sorted(tokenizer.eos_ids)[:1] if eos else []
    ids = list(chain.from_iterable([*prefix, *tokenizer.encode(text), *suffix] for text in texts))
    pieces = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    return [TokenRow(block, list(block)) for block in pieces]


def _by_prefix(tokenizer: Tokenizer, pieces: Sequence[Piece], bos: list[int]) -> TokenRow:
    """The last piece is the answer; the number of tokens of what stands before it, tokenised alone, is masked."""
    ids = [*bos, *_encoded(tokenizer, pieces)]
    source = min(len(bos) + len(_encoded(tokenizer, pieces[:-1])), len(ids))
    return TokenRow(ids, [IGNORED] * source + ids[source:])


def _by_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece], bos: list[int]) -> TokenRow:
    """Neighbouring pieces that are not learned are one text; every answer is one of its own."""
    ids, labels = list(bos), [IGNORED] * len(bos)
    for learned, group in groupby(pieces, key=lambda piece: piece[1]):
        tokens = _encoded(tokenizer, list(group))
        ids += tokens
        labels += tokens if learned else [IGNORED] * len(tokens)
    return TokenRow(ids, labels)


def by_overlap(tokenizer: Tokenizer, pieces: Sequence[Piece], bos: list[int]) -> TokenRow:
    """Learn every token that overlaps an answer, its end mark, or the one blank before it."""
    texts = ["".join(text for text, _ in parts).encode() for parts, _ in pieces]
    data = b"".join(texts)
    spans, at = [], 0
    for text, (_, learned) in zip(texts, pieces, strict=True):
        if learned:
            spans.append((at - 1 if data[at - 1 : at] == b" " else at, at + len(text)))
        at += len(text)
    ids = _encoded(tokenizer, pieces)
    labels = [
        token if any(start < b and end > a for a, b in spans) else IGNORED
        for token, (start, end) in zip(ids, _places(tokenizer, ids, data), strict=True)
    ]
    return TokenRow([*bos, *ids], [IGNORED] * len(bos) + labels)


def _places(tokenizer: Tokenizer, ids: Sequence[int], data: bytes) -> list[tuple[int, int]]:
    """Byte range of each token in the text.

    Raises:
        InvalidRequest: the tokenizer changes the text, so that its tokens cannot be found in it.
    """
    places, at = [], 0
    for token in ids:
        piece = tokenizer.token_bytes(token)
        if not data.startswith(piece, at):  # SentencePiece puts a blank of its own where a text begins
            piece = piece.removeprefix(b" ")
        if not data.startswith(piece, at):
            raise InvalidRequest(
                f"The tokenizer reads {data[at : at + 20].decode(errors='replace')!r} as {piece[:20]!r}: which tokens "
                "are the answer's cannot be told.",
                hint="Remove this row, or check that the tokenizer belongs to this model.",
                hint_zh="请删除该条数据，或检查分词器是否属于此模型。",
                param="messages",
                code="text_not_kept",
            )
        places.append((at, at + len(piece)))
        at += len(piece)
    return places


def _encoded(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> list[int]:
    """Ids of rendered pieces; only the format's own text may hold special tokens."""
    return tokenizer.encode_segments([part for parts, _ in pieces for part in parts])


_BY_RULE = {
    **dict.fromkeys(("alpaca", "alpaca-lora", "alpaca-short", "cornucopia", "cornucopia-base"), _by_prefix),
    **dict.fromkeys(("chinese-alpaca", "belle", "belle-early"), _by_pieces),
}
