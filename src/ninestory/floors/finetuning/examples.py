"""Training rows from data files: each sample rendered in the model's prompt format, tokenised and masked."""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.floors.finetuning import masking
from ninestory.floors.finetuning.corpus import CORPUS, corpus_blocks
from ninestory.floors.finetuning.data_files import SourceRow, read_rows
from ninestory.floors.finetuning.example_file import ExampleFile, TrainingExample
from ninestory.floors.finetuning.formats import (
    InvalidRow,
    Sample,
    begins_with_greeting,
    find_format,
    recognise_format,
    without_greeting,
)
from ninestory.floors.finetuning.preferences import find_preference_format, recognise_preference
from ninestory.floors.finetuning.recipe import Objective
from ninestory.models import chat_template
from ninestory.models.prompt_format import PromptFormat
from ninestory.tokenizers.tokenizer import Segment, Tokenizer
from ninestory.training.batches import IGNORED, TokenRow

MAX_LISTED_ROWS = 1000  # kept by name; more only count
_MOSS_HEAD = "<|MOSS|>:"


@dataclass(frozen=True)
class SkippedRow:
    """An invalid row, and why it was left out."""

    file: str
    line: int
    why: str


@dataclass(frozen=True)
class DataSource:
    """A file or folder of the data, and the range of its examples."""

    name: str
    start: int
    end: int

    @property
    def rows(self) -> int:
        return self.end - self.start


@dataclass
class Examples:
    """Training examples of the data files, and what happened to the other rows.

    Attributes:
        invalid: rows that were left out; `invalid_count` may be larger than the list of those kept by name.
        lost_questions: conversations that lost a user's turn at their end, which nothing answers.
        lost_greetings: conversations that lost the assistant's first turn, for which the model's template has no place.
    """

    format: str
    good: ExampleFile
    sources: list[DataSource] = field(default_factory=list)
    invalid: list[SkippedRow] = field(default_factory=list)
    invalid_count: int = 0
    lost_questions: int = 0
    lost_greetings: int = 0
    hashes: array[int] = field(default_factory=lambda: array("Q"))  # of each example's tokens

    @property
    def duplicates(self) -> int:
        """Number of examples that repeat an earlier one token by token."""
        import numpy as np

        return len(self.hashes) - len(np.unique(np.frombuffer(self.hashes, np.uint64)))

    def add_invalid(self, source: SourceRow, why: str) -> None:
        self.invalid_count += 1
        if len(self.invalid) < MAX_LISTED_ROWS:
            self.invalid.append(SkippedRow(source.file, source.line, why))


def read_examples(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    prompts: PromptFormat | None,
    *,
    max_length: int,
    data_format: str = "",
    objective: Objective = "sft",
    limit: int = 0,
    suffix: str = "",
    folder: Path | None = None,
) -> Examples:
    """Read, render and mask all rows.

    Args:
        prompts: the prompt format of conversations; None for a base model, which takes raw text only.
        max_length: tokens of a row; longer ones are cut at the end.
        data_format: of the data; "" = recognised by the first row's columns.
        objective: dpo reads preferences: a better and a worse answer a row.
        limit: most rows; 0 = all.
        suffix: of files whose name has none.
        folder: where the rendered rows are kept while the process runs.

    Raises:
        InvalidRequest: no format fits, the data are empty, or the data are conversations and there is no format.
    """
    examples = Examples(data_format, ExampleFile(folder))
    for path in paths:
        start = len(examples.good)
        rows = read_rows(path, suffix)
        if data_format == CORPUS:
            batch = _blocks(rows, examples, tokenizer, max_length)
        else:
            batch = _examples(rows, examples, tokenizer, prompts, max_length, objective)
        for example, digest in batch:
            examples.hashes.append(digest)
            examples.good.append(example)
            if limit and len(examples.good) >= limit:
                break
        examples.sources.append(DataSource(path.name, start, len(examples.good)))
    if not examples.good and not examples.invalid_count:
        raise InvalidRequest(
            f"{', '.join(path.name for path in paths)} has no rows; expected at least one.",
            hint="Name a file with at least one row.",
            hint_zh="请指定至少包含一行数据的文件。",
            param="data",
            code="no_rows",
        )
    return examples


def _blocks(
    rows: Iterator[SourceRow], examples: Examples, tokenizer: Tokenizer, max_length: int
) -> Iterator[tuple[TrainingExample, int]]:
    for block, source in corpus_blocks(rows, tokenizer, max_length, examples.add_invalid):
        yield TrainingExample(block, Sample("text"), source.file, source.line), _hash([block])


def _examples(
    rows: Iterator[SourceRow],
    examples: Examples,
    tokenizer: Tokenizer,
    prompts: PromptFormat | None,
    max_length: int,
    objective: Objective,
) -> Iterator[tuple[TrainingExample, int]]:
    for source in rows:
        try:
            yield _example(source, examples, tokenizer, prompts, max_length, objective)
        except InvalidRow as why:
            examples.add_invalid(source, str(why))
        except InvalidRequest as refused:
            if refused.code in ("no_format", "unknown_format"):
                raise
            examples.add_invalid(source, refused.message)


def _hash(rows: Sequence[TokenRow]) -> int:
    """64 bits of the rows' tokens."""
    digest = hashlib.blake2b(json.dumps([row.ids for row in rows]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _example(
    source: SourceRow,
    examples: Examples,
    tokenizer: Tokenizer,
    prompts: PromptFormat | None,
    max_length: int,
    objective: Objective,
) -> tuple[TrainingExample, int]:
    """One source row as an example, and a hash of its uncut tokens. Raises InvalidRow, InvalidRequest."""
    if source.fault:
        raise InvalidRow(source.fault)
    recognised, find = (
        (recognise_preference, find_preference_format) if objective == "dpo" else (recognise_format, find_format)
    )
    examples.format = examples.format or recognised(source.values)
    sample = find(examples.format)(source.values)
    try:
        uncut_rows = _rendered(sample, tokenizer, prompts, max_length + 1)
        lost_greeting = False
    except InvalidRequest:
        # many checkpoints' templates refuse a conversation that the assistant begins
        if not sample.greeting or prompts is None or prompts.template is not None:
            raise
        sample, lost_greeting = without_greeting(sample), True
        uncut_rows = _rendered(sample, tokenizer, prompts, max_length + 1)
    rows = [TokenRow(row.ids[:max_length], row.labels[:max_length]) for row in uncut_rows]
    if not all(row.weight for row in rows):
        raise InvalidRow(f"nothing to learn is left within {max_length} tokens")
    if len(rows) == 2 and rows[0] == rows[1]:
        raise InvalidRow(f"within {max_length} tokens the chosen and the rejected answer are the same")
    cut = any(len(row.ids) > max_length for row in uncut_rows)
    rejected = rows[1] if len(rows) == 2 else None
    examples.lost_questions += sample.lost_question
    examples.lost_greetings += lost_greeting
    return TrainingExample(rows[0], sample, source.file, source.line, cut, rejected), _hash(uncut_rows)


def _rendered(sample: Sample, tokenizer: Tokenizer, prompts: PromptFormat | None, max_length: int) -> list[TokenRow]:
    """The row, and that of the rejected answer."""
    return [render(part, tokenizer, prompts, max_length) for part in (sample, sample.rejected) if part]


def render(sample: Sample, tokenizer: Tokenizer, prompts: PromptFormat | None, max_length: int) -> TokenRow:
    """One sample as ids and labels, cut to `max_length`.

    Raises:
        InvalidRequest: the format has no place for it; with code "no_format" when there is no format at all.
    """
    if sample.kind == "moss":
        return masking.moss_row(tokenizer, sample.moss, max_length=max_length)
    if sample.kind == "text":
        return _raw(sample, tokenizer, max_length)
    if prompts is None:
        raise InvalidRequest(
            "The data are conversations, and the model has no prompt format.",
            hint="Choose one with model.template (for example alpaca or vicuna-v1.1).",
            hint_zh="请用 model.template 选择一种（例如 alpaca、vicuna-v1.1）。",
            param="model.template",
            code="no_format",
        )
    if prompts.template is not None:
        messages = [_fitting(message, prompts) for message in sample.messages]
        return masking.mask_conversation(tokenizer, prompts.id, messages, max_length=max_length)
    return _by_jinja(sample.messages, tokenizer, prompts, max_length)


def question(sample: Sample, tokenizer: Tokenizer, prompts: PromptFormat | None) -> tuple[list[int], str]:
    """Prompt ids and expected answer of an evaluation: the last turn of a conversation, or a completion."""
    if sample.kind == "text":
        return [*tokenizer.bos_ids, *tokenizer.encode(sample.prompt)], sample.completion
    if sample.kind == "moss":
        return _moss_question(sample.moss, tokenizer)
    assert prompts is not None
    messages = [_fitting(message, prompts) for message in sample.messages]
    segments = prompts.segments(
        messages[:-1], special_tokens=_special_surfaces(tokenizer), **_boundary_tokens(tokenizer)
    )
    ids = tokenizer.encode_segments(segments)
    bos = _bos_before(ids, tokenizer) if prompts.begin_token else []
    return [*bos, *ids, *tokenizer.suffix_ids], str(messages[-1]["content"])


def question_text(sample: Sample) -> str:
    """The question in the words of the data, without the prompt format: for people to read."""
    if sample.kind == "text":
        return sample.prompt
    if sample.kind == "moss":
        chat = sample.moss["chat"]
        return str(chat[f"turn_{len(chat)}"].get("Human", ""))
    *before, last = [(m["role"], f"{m['content']}\n{m.get('input') or ''}".strip()) for m in sample.messages[:-1]]
    return "\n".join([*(f"{role}: {text}" for role, text in before), last[1]])


def _moss_question(dialogue: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[list[int], str]:
    """A dialogue up to the last answer, whose head is given, and what it then says."""
    *before, last = (dialogue["chat"][f"turn_{number}"] for number in range(1, len(dialogue["chat"]) + 1))
    head, _, answer = last.get("MOSS", "").partition(_MOSS_HEAD)
    parts = [*(text for turn in before for text in turn.values()), *(t for n, t in last.items() if n != "MOSS"), head]
    ids = tokenizer.encode(dialogue["meta_instruction"] + "".join(parts) + _MOSS_HEAD, special=True)
    return ids, tokenizer.decode(tokenizer.encode(answer, special=True)).strip()


def _bos_before(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The begin token, unless the prompt format has written it."""
    return [] if list(ids[: len(tokenizer.bos_ids)]) == tokenizer.bos_ids else tokenizer.bos_ids


def _fitting(message: dict[str, Any], prompts: PromptFormat) -> dict[str, Any]:
    """Append `input` to the instruction where the format has no slot for it."""
    if not message.get("input") or (prompts.template is not None and prompts.template.user_with_input):
        return message
    return {"role": message["role"], "content": f"{message['content']}\n{message['input']}"}


def _raw(sample: Sample, tokenizer: Tokenizer, max_length: int) -> TokenRow:
    """Prompt and completion apart, so that no token spans the border; the end token is answer."""
    prompt = [*tokenizer.bos_ids, *(tokenizer.encode(sample.prompt) if sample.prompt else [])]
    answer = [*tokenizer.encode(sample.completion), *sorted(tokenizer.eos_ids)[:1]]
    return TokenRow([*prompt, *answer][:max_length], [*[IGNORED] * len(prompt), *answer][:max_length])


def _by_jinja(messages: list[dict[str, Any]], tokenizer: Tokenizer, prompts: PromptFormat, max_length: int) -> TokenRow:
    """Render with the checkpoint's own template; an answer is what it adds to the prompt. A greeting is context.

    Raises:
        InvalidRequest: the template rewrites earlier turns, so that the answers cannot be located.
    """
    special_surfaces = _special_surfaces(tokenizer)

    def rendered(count: int, ask: bool) -> list[Segment]:
        turns = [_fitting(message, prompts) for message in messages[:count]]
        return chat_template.render_segments(
            prompts.jinja,
            turns,
            special_tokens=special_surfaces,
            add_generation_prompt=ask,
            **_boundary_tokens(tokenizer),
        )

    segments = rendered(len(messages), False)
    text = "".join(piece for piece, _ in segments)
    spans = []
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for index in answers[1:] if begins_with_greeting(messages) else answers:
        prompt = "".join(piece for piece, _ in rendered(index, True))
        with_answer = "".join(piece for piece, _ in rendered(index + 1, False))
        if not (with_answer.startswith(prompt) and text.startswith(with_answer.rstrip())):
            raise InvalidRequest(
                "The model's template rewrites earlier turns, so its answers cannot be located in the text.",
                hint="Choose a template of the catalogue with model.template, or train on single questions.",
                hint_zh="请用 model.template 选择目录中的模板，或只用单轮数据训练。",
                param="model.template",
            )
        spans.append((len(prompt), len(with_answer.rstrip())))  # the line break after the end mark is not learned
    pieces = list(_cut(segments, spans))
    row = masking.by_overlap(tokenizer, pieces, _bos_before(tokenizer.encode_segments(segments), tokenizer))
    return TokenRow(row.ids[:max_length], row.labels[:max_length])


def _cut(segments: Sequence[Segment], spans: Sequence[tuple[int, int]]) -> Iterator[tuple[list[Segment], bool]]:
    """Cut segments at the borders of the spans; each piece comes with whether it lies inside one."""
    borders = sorted({0, *(border for span in spans for border in span)})
    borders.append(sum(len(text) for text, _ in segments))
    for start, end in itertools.pairwise(borders):
        parts, at = [], 0
        for text, special in segments:
            part = text[max(0, start - at) : max(0, end - at)]
            at += len(text)
            if part:
                parts.append((part, special))
        if parts:
            yield parts, (start, end) in spans


def _special_surfaces(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token_bytes(i).decode("utf-8", "ignore") for i in tokenizer.special_ids]


def _boundary_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    """`bos_token` and `eos_token`, as templates expect them."""

    def spelling(ids: Sequence[int]) -> str:
        return tokenizer.token_bytes(ids[0]).decode("utf-8", "ignore") if ids else ""

    return {"bos_token": spelling(tokenizer.bos_ids), "eos_token": spelling(sorted(tokenizer.eos_ids))}


def refuse_invalid_rows(examples: Examples, policy: str) -> None:
    """Refuse data with invalid rows under the policy "refuse"; "skip" leaves them out and counts them.

    Raises:
        InvalidRequest: with the first three, by file and line.
    """
    if examples.good and (policy == "skip" or not examples.invalid_count):
        return
    listed = "; ".join(f"{invalid.file}, line {invalid.line}: {invalid.why}" for invalid in examples.invalid[:3])
    raise InvalidRequest(
        f"{examples.invalid_count} of {examples.invalid_count + len(examples.good)} rows cannot be used. {listed}.",
        hint="Correct them, or skip them with --set data.on_invalid_row=skip. 'ninestory tune inspect' lists them all.",
        hint_zh="请修正，或用 --set data.on_invalid_row=skip 跳过；运行 ninestory tune inspect 查看全部。",
        param="data",
        code="invalid_rows",
    )
