"""Preference data: a question with a better and a worse answer, in the three published formats.

hh-rlhf            chosen, rejected: whole dialogues, "\\n\\nHuman: …\\n\\nAssistant: …", that differ in the last answer
pairs              prompt, chosen, rejected: texts, or lists of messages (BELLE's and TRL's)
openai-preference  input.messages, preferred_output, non_preferred_output: as OpenAI's fine-tuning takes it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.floors.finetuning.formats import InvalidRow, Sample, alternating, text_of

Values = Mapping[str, Any]
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \n]?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def _hh_rlhf(row: Values) -> Sample:
    chosen, rejected = (_dialogue(text_of(row, column), column) for column in ("chosen", "rejected"))
    return _pair(chosen[:-1], chosen[-1:], rejected[-1:], also=rejected[:-1])


def _dialogue(text: str, column: str) -> list[dict[str, str]]:
    """Human and Assistant in turn."""
    parts = _TURN.split(text.strip())
    turns = [{"role": _ROLES[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]
    if parts[0].strip() or not turns:
        raise InvalidRow(f"the column {column!r} does not begin with 'Human:'")
    return turns


def _pairs(row: Values) -> Sample:
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        before = _messages(row["prompt"], "prompt") if row.get("prompt") else []
        first, second = [*before, *_messages(chosen, "chosen")], [*before, *_messages(rejected, "rejected")]
        return _pair(first[:-1], first[-1:], second[-1:], also=second[:-1])
    given = row.get("prompt")
    prompt = _messages(given, "prompt") if isinstance(given, list) else [_user(text_of(row, "prompt"))]
    return _pair(prompt, [_assistant(text_of(row, "chosen"))], [_assistant(text_of(row, "rejected"))])


def _openai(row: Values) -> Sample:
    given = row.get("input")
    messages = given.get("messages") if isinstance(given, dict) else None
    return _pair(
        _messages(messages, "input.messages"),
        _messages(row.get("preferred_output"), "preferred_output"),
        _messages(row.get("non_preferred_output"), "non_preferred_output"),
    )


def _messages(value: Any, column: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [_user(value)]
    if not isinstance(value, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("content"), str) and isinstance(turn.get("role"), str)
        for turn in value
    ):
        raise InvalidRow(f"the column {column!r} is not a list of messages with role and text")
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _pair(
    question: list[dict[str, str]],
    chosen: list[dict[str, str]],
    rejected: list[dict[str, str]],
    also: list[dict[str, str]] | None = None,
) -> Sample:
    """`also`: the question of the rejected answer, where the row repeats it."""
    if also is not None and also != question:
        raise InvalidRow("the two dialogues differ before their last answer")
    if chosen == rejected:
        raise InvalidRow("the chosen and the rejected answer are the same")
    system = question[:1] if question and question[0]["role"] == "system" else []
    better, worse = (alternating(system, [*question[len(system) :], *answer]) for answer in (chosen, rejected))
    return replace(better, rejected=worse)


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PREFERENCE_FORMATS: dict[str, Callable[[Values], Sample]] = {
    "openai-preference": _openai,
    "pairs": _pairs,
    "hh-rlhf": _hh_rlhf,
}


def recognise_preference(row: Values) -> str:
    """Recognise the format of a row by its columns.

    Raises:
        InvalidRequest: these columns hold no preferences.
    """
    if {"preferred_output", "non_preferred_output"} <= set(row):
        return "openai-preference"
    if {"chosen", "rejected"} <= set(row):
        return "pairs" if "prompt" in row or isinstance(row["chosen"], list) else "hh-rlhf"
    raise InvalidRequest(
        f"No preference format has the columns {', '.join(sorted(map(str, row)))[:200] or '(none)'}.",
        hint="dpo learns from rows of prompt, chosen, rejected; of chosen, rejected (hh-rlhf); or of OpenAI's "
        "preferred_output.",
        hint_zh="dpo 需要的列：prompt、chosen、rejected；或 chosen、rejected（hh-rlhf）；或 OpenAI 的 preferred_output。",
        param="data.format",
        code="unknown_format",
    )


def find_preference_format(name: str) -> Callable[[Values], Sample]:
    """Find a preference format by name.

    Raises:
        InvalidRequest: an unknown name.
    """
    if name in PREFERENCE_FORMATS:
        return PREFERENCE_FORMATS[name]
    raise InvalidRequest(
        f"data.format is {name!r}; expected one of {', '.join(PREFERENCE_FORMATS)}.",
        hint="Leave data.format empty to recognise the format by the columns.",
        hint_zh="将 data.format 留空即可按列名自动识别。",
        param="data.format",
    )
