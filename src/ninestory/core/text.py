"""Validity of text: JSON escapes can produce lone surrogates, which no encoder accepts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def broken_string(value: Any, where: str = "") -> str | None:
    """Path of the first string in plain JSON data with a lone surrogate, or None.

    A client that cuts an emoji in two sends one; no tokenizer, database or encoder accepts it. Keys are checked too.

    Args:
        value: plain data, as from `json.loads`.
        where: path of `value` itself.

    >>> broken_string({"messages": [{"content": "whole"}, {"content": chr(0xD83D)}]})
    'messages.1.content'
    """
    if isinstance(value, str):
        return None if is_text(value) else where
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        if any(not is_text(key) for key in value):
            return where
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    places = (broken_string(part, f"{where}.{name}" if where else str(name)) for name, part in parts)
    return next((place for place in places if place is not None), None)


def is_text(text: str) -> bool:
    """Whether the string can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
