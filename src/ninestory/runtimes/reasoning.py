"""Split a model's thinking (`<think>…</think>`) from its answer while the text streams."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class ThinkingSplitter:
    """Feed text as it comes; get (text, is_thinking) pieces back. A tag never leaks, also when cut in two.

    Thinking is recognised only at the very start of the answer, so that an answer may speak of the tags.

    Args:
        inside: the prompt already ended with `<think>`, as some templates do.
    """

    def __init__(self, inside: bool = False) -> None:
        self._state = "thinking" if inside else "start"
        self._held = ""

    def feed(self, text: str) -> list[tuple[str, bool]]:
        text = self._held + text
        self._held = ""
        out: list[tuple[str, bool]] = []
        if self._state == "start":
            stripped = text.lstrip()
            if OPEN.startswith(stripped[: len(OPEN)]) and len(stripped) < len(OPEN):
                self._held = text  # white space only, or a part of the tag
                return out
            self._state = "thinking" if stripped.startswith(OPEN) else "answer"
            text = stripped[len(OPEN) :].lstrip("\n") if self._state == "thinking" else text
        if self._state == "thinking":
            thought, closed, rest = text.partition(CLOSE)
            if not closed:
                keep = _partial_suffix(text, CLOSE)
                self._held = text[len(text) - keep :] if keep else ""
                thought = text[: len(text) - keep]
            if thought:
                out.append((thought, True))
            if not closed:
                return out
            self._state, text = "answer-start", rest
        if self._state == "answer-start":
            text = text.lstrip("\n")
            if text:
                self._state = "answer"
        if text:
            out.append((text, False))
        return out

    def flush(self) -> list[tuple[str, bool]]:
        """What was held back, when the text has ended."""
        held, self._held = self._held, ""
        return [(held, self._state == "thinking")] if held else []


def _partial_suffix(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
