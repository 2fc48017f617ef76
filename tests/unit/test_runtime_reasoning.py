"""Thinking is split from the answer however the text is cut."""

from __future__ import annotations

import pytest

from ninestory.runtimes.reasoning import ThinkingSplitter

TABLE = [
    ("plain answer", False, "", "plain answer"),
    ("<think>why</think>because", False, "why", "because"),
    ("\n<think>\nwhy\n</think>\n\nbecause", False, "why\n", "because"),
    ("why</think>because", True, "why", "because"),
    ("<think>cut off", False, "cut off", ""),
    ("<think>a < b </thin k></think>c", False, "a < b </thin k>", "c"),
    ("the tag <think> is text here", False, "", "the tag <think> is text here"),
    ("<thin", False, "", "<thin"),
    ("  indented", False, "", "  indented"),
]


@pytest.mark.parametrize(("text", "inside", "thinking", "answer"), TABLE)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_every_cut_gives_the_same_split(text: str, inside: bool, thinking: str, answer: str, size: int) -> None:
    splitter = ThinkingSplitter(inside=inside)
    pieces = [p for i in range(0, len(text), size) for p in splitter.feed(text[i : i + size])] + splitter.flush()
    assert "".join(t for t, is_thinking in pieces if is_thinking) == thinking
    assert "".join(t for t, is_thinking in pieces if not is_thinking) == answer


def test_nothing_is_held_back_longer_than_it_could_be_a_tag() -> None:
    splitter = ThinkingSplitter()
    assert splitter.feed("<thi") == []
    assert splitter.feed("s is no tag") == [("<this is no tag", False)]
    assert splitter.feed(" <") == [(" <", False)]
