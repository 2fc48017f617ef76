"""A streamed answer never shows a part of a stop string, and says which one it met."""

from __future__ import annotations

import pytest

from ninestory.runtimes.answer_edit import WithoutLead
from ninestory.runtimes.protocol import TokenLogprob
from ninestory.runtimes.reasoning import ThinkingSplitter
from ninestory.runtimes.text_stream import TextStream
from ninestory.tokenizers.chatglm import ResponseStream


def _texts(stream: TextStream, tokens: list[str]) -> list[str]:
    shown = [chunk.text for token in tokens for chunk in stream.feed(token)]
    return [*shown, *(chunk.text for chunk in stream.flush())]


@pytest.mark.parametrize("tokens", [["one ST", "OP two"], list("one STOP two"), ["one STOP two"], ["one S", "TO", "P"]])
def test_a_stop_across_tokens_is_cut_off(tokens: list[str]) -> None:
    stream = TextStream(0, ["STOP"])
    assert "".join(_texts(stream, tokens)) == "one " and stream.named_stop == "STOP"


def test_a_beginning_that_comes_to_nothing_is_shown() -> None:
    stream = TextStream(0, ["STOP"])
    assert _texts(stream, ["a ST", "x", " STO"]) == ["a ", "STx", " ", "STO"] and stream.stop is None


def test_the_earliest_stop_wins_and_of_two_at_one_place_the_longer() -> None:
    stream = TextStream(0, ["b", "bc", "xa"])
    assert "".join(_texts(stream, ["yxabcd"])) == "y" and stream.stop == "xa"
    stream = TextStream(0, ["b", "bc"])
    assert "".join(_texts(stream, ["abcd"])) == "a" and stream.stop == "bc"


def test_nothing_comes_after_a_stop() -> None:
    assert _texts(TextStream(0, ["."]), ["a.", "b"]) == ["a"]


def test_the_format_s_own_end_is_not_named() -> None:
    stream = TextStream(0, ["x"], ends=["\nHuman:"])
    assert "".join(_texts(stream, ["hi\n", "Human: more"])) == "hi" and stream.named_stop is None


def test_logprobs_come_with_the_text_they_belong_to() -> None:
    stream = TextStream(0, ["STOP"])
    entries = [TokenLogprob(token=t, logprob=-1.0, bytes=[]) for t in ("ST", "x")]
    assert list(stream.feed("ST", entries[0])) == []
    [chunk] = stream.feed("x", entries[1])
    assert [(entry.token, entry.text_offset) for entry in chunk.logprobs] == [("ST", 0), ("x", 2)]


def test_thinking_is_marked_and_counted() -> None:
    stream = TextStream(0, splitter=ThinkingSplitter())
    chunks = [chunk for token in ("<thi", "nk>why", "</think>", "so") for chunk in stream.feed(token)]
    assert [(chunk.text, chunk.reasoning) for chunk in chunks] == [("why", True), ("so", False)]
    assert stream.reasoning_tokens == 1


def test_what_the_format_puts_before_an_answer_is_no_part_of_it() -> None:
    assert "".join(_texts(TextStream(0, edit=WithoutLead(" ")), [" ", "Hi", " there"])) == "Hi there"
    assert "".join(_texts(TextStream(0, edit=WithoutLead("\n\n")), ["\n", "x"])) == "\nx"
    assert "".join(_texts(TextStream(0, edit=WithoutLead("\n\n")), ["\n"])) == "\n"


def test_an_edit_is_done_before_stops_are_looked_for() -> None:
    stream = TextStream(0, ["，"], edit=ResponseStream())
    assert "".join(_texts(stream, ["你好", ",世界"])) == "你好" and stream.stop == "，"
