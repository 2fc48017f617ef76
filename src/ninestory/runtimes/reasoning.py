"""Split a model's thinking (`<think>…</think>`) from its answer while the text streams."""

from __future__ import annotations

from typing import Literal

OPEN, CLOSE = "<think>", "</think>"
_State = Literal["start", "before thinking", "thinking", "before answer", "answer"]


class ThinkingSplitter:
    """Feed text as it comes; get (text, is_thinking) pieces back. A tag never leaks, also when cut in two.

    Thinking is recognised only at the very start of the answer, so that an answer may speak of the tags.

    Args:
        inside: the prompt already ended with `<think>`, as some templates do.
    """

    def __init__(self, inside: bool = False) -> None:
        self._state: _State = "before thinking" if inside else "start"
        self._held = ""

    def feed(self, text: str) -> list[tuple[str, bool]]:
        text, self._held = self._held + text, ""
        out: list[tuple[str, bool]] = []
        if self._state == "start":
            stripped = text.lstrip()
            if len(stripped) < len(OPEN) and OPEN.startswith(stripped):
                self._held = text  # white space only, or a part of the tag
                return out
            if stripped.startswith(OPEN):
                self._state, text = "before thinking", stripped[len(OPEN) :]
            else:
                self._state = "answer"
        if self._state == "before thinking":
            text = text.lstrip("\n")
            self._state = "thinking" if text else self._state
        if self._state == "thinking":
            thought, closed, text = text.partition(CLOSE)
            if not closed:
                keep = partial_suffix(thought, CLOSE)
                thought, self._held = thought[: len(thought) - keep], thought[len(thought) - keep :]
            if thought:
                out.append((thought, True))
            self._state = "before answer" if closed else self._state
        if self._state == "before answer":
            text = text.lstrip("\n")
            self._state = "answer" if text else self._state
        if self._state == "answer" and text:
            out.append((text, False))
        return out

    def flush(self) -> list[tuple[str, bool]]:
        """What was held back, when the text has ended."""
        held, self._held = self._held, ""
        return [(held, self._state == "thinking")] if held else []


def partial_suffix(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
