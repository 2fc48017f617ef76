"""Formats of instruction data, recognised by their columns, as conversations or as text.

Every format is a function from a row to a `Sample`; it raises `InvalidRow` with the reason when the row does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.floors.finetuning.conversations import has_valid_roles

_SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bard": "assistant", "bing": "assistant", "system": "system",
}  # fmt: skip


class InvalidRow(ValueError):
    """A row cannot be used; the message says why."""


@dataclass(frozen=True)
class Sample:
    """A row, independent of its format.

    Attributes:
        messages: a conversation; the answers are learned.
        prompt, completion: raw text without a prompt format; the completion is learned. `text` alone: all of it is.
        moss: a dialogue in MOSS's wire form.
        kind: which of the three it is.
        rejected: the same with the worse answer, where preferences are learned.
        lost_question: the conversation ended with a user's turn, which was left out because nothing answers it.
    """

    kind: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    prompt: str = ""
    completion: str = ""
    moss: dict[str, Any] = field(default_factory=dict)
    rejected: Sample | None = None
    lost_question: bool = False

    @property
    def greeting(self) -> bool:
        """Whether the assistant speaks first."""
        return self.kind == "conversation" and begins_with_greeting(self.messages)


Values = Mapping[str, Any]


def text_of(row: Values, column: str, *, may_be_empty: bool = False) -> str:
    """The text of a column. Raises InvalidRow: it is missing, empty or no text."""
    value = row.get(column)
    if not isinstance(value, str):
        what = "is missing" if column not in row else f"holds {type(value).__name__}; expected text"
        raise InvalidRow(f"the column {column!r} {what}")
    if not value.strip() and not may_be_empty:
        raise InvalidRow(f"the column {column!r} is empty")
    return value


def _conversation(*messages: dict[str, Any]) -> Sample:
    return Sample("conversation", messages=list(messages))


def _user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _input_of(row: Values) -> str:
    """`input` may be missing or null (then there is none); a single blank is an input."""
    return text_of(row, "input", may_be_empty=True) if row.get("input") is not None else ""


def _alpaca(row: Values) -> Sample:
    more = {"input": given} if (given := _input_of(row)) else {}
    return _conversation(_user(text_of(row, "instruction"), **more), _assistant(text_of(row, "output")))


def _belle(row: Values) -> Sample:
    """BELLE puts instruction and input together without anything between."""
    return _conversation(_user(text_of(row, "instruction") + _input_of(row)), _assistant(text_of(row, "output")))


def _belle_target(row: Values) -> Sample:
    return _conversation(_user(text_of(row, "input")), _assistant(text_of(row, "target")))


def _adgen(row: Values) -> Sample:
    return _conversation(_user(text_of(row, "content")), _assistant(text_of(row, "summary")))


def _chatglm(row: Values) -> Sample:
    """ChatGLM's chat data: prompt, response and a history of [question, answer] pairs."""
    history = row.get("history") or []
    if isinstance(history, str):
        try:
            history = json.loads(history)
        except ValueError as error:
            raise InvalidRow("the column 'history' is not JSON") from error
    messages = []
    for pair in history if isinstance(history, list) else [None]:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise InvalidRow("the column 'history' is not a list of [question, answer] pairs")
        messages += [_user(pair[0]), _assistant(pair[1])]
    return _conversation(*messages, _user(text_of(row, "prompt")), _assistant(text_of(row, "response")))


def _sharegpt(row: Values) -> Sample:
    """ShareGPT's and Vicuna's."""
    messages = []
    for number, turn in enumerate(_turns(row, "conversations"), 1):
        speaker = turn.get("from", turn.get("role"))
        if speaker not in _SPEAKERS:
            raise InvalidRow(f"turn {number} is by {str(speaker)[:40]!r}; known are {', '.join(_SPEAKERS)}")
        content = turn.get("value", turn.get("content"))
        if not isinstance(content, str):
            raise InvalidRow(f"turn {number} has no text")
        messages.append({"role": _SPEAKERS[speaker], "content": content})
    system = messages[:1] if messages and messages[0]["role"] == "system" else []
    return answered(system, messages[len(system) :])


def _messages(row: Values) -> Sample:
    """OpenAI's fine-tuning form."""
    messages = []
    for number, turn in enumerate(_turns(row, "messages"), 1):
        role, content = turn.get("role"), turn.get("content")
        role = "system" if role == "developer" else role
        if role not in ("system", "user", "assistant") or turn.get("tool_calls") or turn.get("function_call"):
            raise InvalidRow(
                f"message {number} has the role {str(role)[:40]!r} or calls a tool, which is not learned here"
            )
        if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            raise InvalidRow(f"message {number} has no text")
        messages.append({"role": role, "content": content})
    system = messages[:1] if messages and messages[0]["role"] == "system" else []
    return answered(system, messages[len(system) :])


def _turns(row: Values, column: str) -> Sequence[Mapping[str, Any]]:
    turns = row.get(column)
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise InvalidRow(f"the column {column!r} is not a list of messages")
    return turns


def answered(system: list[dict[str, Any]], turns: list[dict[str, Any]]) -> Sample:
    """A conversation without the user's turn at its end that nothing answers. Raises InvalidRow as `alternating`."""
    if not turns or turns[-1]["role"] != "user":
        return alternating(system, turns)
    return replace(alternating(system, turns[:-1]), lost_question=True)


def begins_with_greeting(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the assistant speaks before the user."""
    speaker = next((message["role"] for message in messages if message["role"] != "system"), "")
    return speaker == "assistant"


def without_greeting(sample: Sample) -> Sample:
    """The conversation from the user's first turn on, its system message kept."""
    place = next(i for i, message in enumerate(sample.messages) if message["role"] == "assistant")
    rejected = without_greeting(sample.rejected) if sample.rejected else None
    return replace(sample, messages=[*sample.messages[:place], *sample.messages[place + 1 :]], rejected=rejected)


def alternating(system: list[dict[str, Any]], turns: list[dict[str, Any]]) -> Sample:
    """A conversation of questions and answers, which may begin with the assistant's greeting.

    Raises:
        InvalidRow: another order, or an empty turn.
    """
    questions = turns[1:] if begins_with_greeting(turns) else turns
    if not has_valid_roles([turn["role"] for turn in questions]) or turns[-1]["role"] != "assistant":
        order = " ".join(turn["role"] for turn in turns[:6])
        raise InvalidRow(f"user and assistant do not alternate, ending with an answer: {order or 'no turn'}")
    if empty := [number for number, turn in enumerate(turns, 1) if not turn["content"].strip()]:
        raise InvalidRow(f"turn {empty[0]} is empty")
    return _conversation(*system, *turns)


def _moss(row: Values) -> Sample:
    chat = row.get("chat")
    if not isinstance(chat, dict) or any(not isinstance(chat.get(f"turn_{n}"), dict) for n in range(1, len(chat) + 1)):
        raise InvalidRow("the column 'chat' does not hold turn_1, turn_2, …")
    if not chat or any(not isinstance(text, str) for turn in chat.values() for text in turn.values()):
        raise InvalidRow("a turn of 'chat' holds something else than text")
    return Sample("moss", moss={"meta_instruction": text_of(row, "meta_instruction", may_be_empty=True), "chat": chat})


def _completion(prompt: str, completion: str) -> Callable[[Values], Sample]:
    return lambda row: Sample(
        "text", prompt=text_of(row, prompt, may_be_empty=True), completion=text_of(row, completion)
    )


def _xp3(row: Values) -> Sample:
    """BLOOMZ's tasks: one blank stands between both, where neither brings white space; it belongs to the answer."""
    asked, answer = text_of(row, "inputs"), text_of(row, "targets")
    between = "" if asked[-1].isspace() or answer[0].isspace() else " "
    return Sample("text", prompt=asked, completion=between + answer)


def _plain(column: str) -> Callable[[Values], Sample]:
    return lambda row: Sample("text", completion=text_of(row, column))


def _chip2(row: Values) -> Sample:
    """OIG's chip2: only the first reply is kept."""
    question, mark, reply = text_of(row, "text").partition("\n<bot>: ")
    if not mark:
        raise InvalidRow("the text holds no '<bot>: '")
    answer = reply.split("\n<human>: ")[0].split("\n<bot>: ")[0]
    return _conversation(_user(question.removeprefix("<human>: ")), _assistant(answer))


FORMATS: dict[str, Callable[[Values], Sample]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "moss": _moss,
    "chatglm": _chatglm,
    "adgen": _adgen,
    "alpaca": _alpaca,
    "belle": _belle,
    "belle-target": _belle_target,
    "prompt-completion": _completion("prompt", "completion"),
    "self-instruct": _completion("prompt", "completion"),  # this and oasst1 as QLoRA's program names them
    "xp3": _xp3,
    "hh-rlhf": _plain("chosen"),
    "chip2": _chip2,
    "text": _plain("text"),
    "oasst1": _plain("text"),
    "corpus": _plain("text"),  # put end to end and cut into blocks, see `corpus.py`; never recognised, always named
}
# The columns by which a format is known; the first that fits is taken, so the more telling ones come first.
_KNOWN_BY: list[tuple[set[str], str]] = [
    ({"messages"}, "messages"),
    ({"conversations"}, "sharegpt"),
    ({"chat", "meta_instruction"}, "moss"),
    ({"prompt", "response"}, "chatglm"),
    ({"content", "summary"}, "adgen"),
    ({"instruction", "output"}, "alpaca"),
    ({"input", "target"}, "belle-target"),
    ({"prompt", "completion"}, "prompt-completion"),
    ({"inputs", "targets"}, "xp3"),
    ({"chosen", "rejected"}, "hh-rlhf"),
    ({"text"}, "text"),
]


def recognise_format(row: Values) -> str:
    """Recognise the format of a row by its columns.

    >>> recognise_format({"instruction": "Add.", "output": "2"}), recognise_format({"content": "a", "summary": "b"})
    ('alpaca', 'adgen')

    Raises:
        InvalidRequest: no format has these columns.
    """
    for columns, form in _KNOWN_BY:
        if columns <= set(row):
            chip2 = form == "text" and isinstance(row["text"], str) and "<human>: " in row["text"][:20]
            return "chip2" if chip2 else form
    known = "; ".join(" + ".join(sorted(columns)) for columns, _ in _KNOWN_BY)
    raise InvalidRequest(
        f"No data format has the columns {', '.join(sorted(map(str, row)))[:200] or '(none)'}.",
        hint=f"Rename them to one of: {known}; or name the format with data.format.",
        hint_zh=f"请将列名改为以下之一：{known}；或用 data.format 指定格式。",
        param="data.format",
        code="unknown_format",
    )


def find_format(name: str) -> Callable[[Values], Sample]:
    """Find a format by name.

    Raises:
        InvalidRequest: an unknown name.
    """
    if name in FORMATS:
        return FORMATS[name]
    raise InvalidRequest(
        f"data.format is {name!r}; expected one of {', '.join(FORMATS)}.",
        hint="Leave data.format empty to recognise the format by the columns.",
        hint_zh="将 data.format 留空即可按列名自动识别。",
        param="data.format",
    )
