"""Declarative checks of one answer, and the score of an answer against them.

A check is a table with one key: `equals` a text (case, outer blanks and a final full stop aside); `contains` or
`excludes` a list of texts; `max_words`, `max_sentences`, `max_characters` a number; `json` a table whose values the
answer's JSON object must have ("" means null); `rouge_l` a reference text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.evaluation.rouge import mixed_tokens, rouge_l

_SENTENCE_END = re.compile(r"[.!?。！？…]+(?=\s|$|[^\s.!?。！？…])")


def score(answer: str, checks: Sequence[dict[str, Any]]) -> float:
    """Mean score over the checks, in [0, 1]; 1 if there are none.

    Raises:
        InvalidRequest: a check of an unknown kind or with a value of the wrong type.

    >>> score("Paris is nice.", [{"contains": ["Paris", "Rome"]}, {"max_words": 3}])
    0.75
    """
    return sum(_one(answer, check) for check in checks) / len(checks) if checks else 1.0


def words(text: str) -> int:
    """Words of Latin text plus characters of Chinese."""
    return len(mixed_tokens(text))


def sentences(text: str) -> int:
    """Sentences by their final marks; text behind the last mark counts as one."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text.strip())]
    rest = text.strip()[ends[-1] :] if ends else text.strip()
    return len(ends) + bool(rest.strip("\"'”’)） "))


def _one(answer: str, check: dict[str, Any]) -> float:
    try:
        ((kind, wanted),) = check.items()
        return float(_KINDS[kind](answer, wanted))
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise InvalidRequest(
            f"The check {str(check)[:80]} is invalid: {type(error).__name__} {error}.",
            hint=f"Write each check as a table with one of {', '.join(_KINDS)}.",
            hint_zh=f"每项检查是含有以下一个键的表：{'、'.join(_KINDS)}。",
            param="checks",
        ) from error


def _plain(text: str) -> str:
    return text.strip().rstrip(".。").casefold()


def _contained(answer: str, wanted: Sequence[str]) -> float:
    return sum(text.casefold() in answer.casefold() for text in wanted) / len(wanted)


def _json(answer: str, wanted: dict[str, Any]) -> float:
    """Share of the expected values that the answer's object has; 0 if it is not a JSON object."""
    fence = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", answer, re.DOTALL)
    try:
        found = json.loads(fence[1] if fence else answer)
    except ValueError:
        return 0.0
    if not isinstance(found, dict):
        return 0.0
    right = [
        key in found and (found[key] == value or (found[key] is None and value == "")) for key, value in wanted.items()
    ]
    return sum(right) / len(right)


_KINDS: dict[str, Callable[[str, Any], float]] = {
    "equals": lambda answer, wanted: _plain(answer) == _plain(wanted),
    "contains": _contained,
    "excludes": lambda answer, wanted: 1 - _contained(answer, wanted),
    "max_words": lambda answer, most: words(answer) <= int(most),
    "max_sentences": lambda answer, most: sentences(answer) <= int(most),
    "max_characters": lambda answer, most: len(answer.strip()) <= int(most),
    "json": _json,
    "rouge_l": lambda answer, wanted: rouge_l(mixed_tokens(wanted), mixed_tokens(answer)).f1,
}
