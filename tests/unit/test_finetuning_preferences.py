"""Preferences in their published shapes, as a question with a better and a worse answer."""

from __future__ import annotations

from typing import Any

import pytest

from ninestory.core.errors import InvalidRequest
from ninestory.floors.finetuning.formats import InvalidRow
from ninestory.floors.finetuning.preferences import PREFERENCE_FORMATS, find_preference_format, recognise_preference

HH = "\n\nHuman: {q}\n\nAssistant: {a}\n\nHuman: And?\n\nAssistant:{end}"
U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
WORSE = {"role": "assistant", "content": "No."}
ROWS: dict[str, list[dict[str, Any]]] = {
    "hh-rlhf": [{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."}],
    "pairs": [
        {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."},
        {"prompt": [U], "chosen": [A], "rejected": [WORSE]},
        {"chosen": [U, A], "rejected": [U, WORSE]},
    ],
    "openai-preference": [{"input": {"messages": [U]}, "preferred_output": [A], "non_preferred_output": [WORSE]}],
}


@pytest.mark.parametrize("form", PREFERENCE_FORMATS)
def test_every_shape_means_the_same(form: str) -> None:
    for row in ROWS[form]:
        assert recognise_preference(row) == form
        sample = find_preference_format(form)(row)
        assert sample.messages == [U, A]
        assert sample.rejected is not None and sample.rejected.messages == [U, WORSE]


def test_a_dialogue_of_several_turns_differs_in_its_last_answer() -> None:
    row = {key: HH.format(q="Why?", a="So.", end=end) for key, end in (("chosen", " Good"), ("rejected", " Bad"))}
    sample = find_preference_format("hh-rlhf")(row)
    assert [turn["content"] for turn in sample.messages] == ["Why?", "So.", "And?", "Good"]
    assert sample.rejected is not None and sample.rejected.messages[-1]["content"] == "Bad"


@pytest.mark.parametrize(
    ("form", "row", "why"),
    [
        ("hh-rlhf", {"chosen": "Hi", "rejected": "\n\nHuman: a\n\nAssistant: b"}, "'chosen' does not begin with"),
        ("hh-rlhf", {"chosen": HH.format(q="a", a="b", end=" c"), "rejected": HH.format(q="a", a="x", end=" d")},
         "differ before their last"),
        ("hh-rlhf", {"chosen": HH.format(q="a", a="b", end=" c"), "rejected": HH.format(q="a", a="b", end=" c")},
         "are the same"),
        ("hh-rlhf", {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}, "do not alternate"),
        ("pairs", {"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
        ("pairs", {"prompt": "a", "chosen": "b", "rejected": 4}, "holds int"),
        ("pairs", {"chosen": ["b"], "rejected": ["c"]}, "not a list of messages"),
        ("openai-preference", {"input": "a", "preferred_output": [A], "non_preferred_output": [WORSE]},
         "input.messages"),
    ],
)  # fmt: skip
def test_a_bad_row_says_why(form: str, row: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRow, match=why):
        find_preference_format(form)(row)


def test_other_columns_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="No preference format has the columns instruction, output") as caught:
        recognise_preference({"instruction": "a", "output": "b"})
    assert "prompt, chosen, rejected" in caught.value.hint
    with pytest.raises(InvalidRequest, match=r"data\.format is 'alpaca'"):
        find_preference_format("alpaca")
