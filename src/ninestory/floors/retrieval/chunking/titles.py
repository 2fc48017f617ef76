"""Numbered headings in plain Chinese text, and the sentence that carries one to the passages below it.

The tests of a title are those of langchain-ChatGLM's title enhancement; in these documents headings carry numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_TITLE_CHARACTERS = 20
_HEAD_CHARACTERS = 5


def is_mostly_symbols(text: str, threshold: float = 0.5) -> bool:
    """Whether fewer than `threshold` of the visible characters are letters (Chinese characters are letters)."""
    visible = [char for char in text if not char.isspace()]
    return bool(visible) and sum(char.isalpha() for char in visible) / len(visible) < threshold


def is_title(text: str) -> bool:
    """Whether a line looks like a numbered heading: short, mostly letters, a numeral near its start, no final mark."""
    return (
        0 < len(text) <= MAX_TITLE_CHARACTERS
        and not re.search(r"[^\w\s]\Z", text)
        and not is_mostly_symbols(text)
        and not text.isnumeric()
        and any(char.isnumeric() for char in text[:_HEAD_CHARACTERS])
    )


def with_titles(passages: Sequence[str]) -> list[tuple[str, bool]]:
    """Each passage of one file, led by the last title before it; True marks the titles themselves."""
    enhanced: list[tuple[str, bool]] = []
    title = ""
    for passage in passages:
        if is_title(passage):
            title = passage
            enhanced.append((passage, True))
        else:
            enhanced.append((f"下文与({title})有关。{passage}" if title else passage, False))
    return enhanced
