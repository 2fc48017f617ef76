"""Data files and their forms: every row is read as its form says, or named with file, line and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Damaged, InvalidRequest, NotFound
from ninestory.floors.finetuning.data_files import read_rows
from ninestory.floors.finetuning.formats import FORMATS, InvalidRow, find_format, recognise_format

ROWS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Add.", "input": "2 2", "output": "4"},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    "adgen": {"content": "类型#裤", "summary": "宽松的裤子"},
    "chatglm": {"prompt": "b", "response": "c", "history": [["a", "A"]]},
    "belle-target": {"input": "七加五", "target": "十二"},
    "moss": {
        "meta_instruction": "m",
        "chat": {"turn_1": {"Human": "<|Human|>: hi<eoh>\n", "MOSS": "<|MOSS|>: ho<eom>"}},
    },
    "prompt-completion": {"prompt": "2+2=", "completion": "4"},
    "xp3": {"inputs": "Is 2 even? Answer:", "targets": "Yes"},
    "hh-rlhf": {"chosen": "good", "rejected": "bad"},
    "chip2": {"text": "<human>: Hi\n<bot>: Ho\n<human>: more\n<bot>: no"},
    "text": {"text": "Once upon a time."},
}


@pytest.mark.parametrize("form", ROWS)
def test_a_form_is_recognised_by_its_columns_and_read(form: str) -> None:
    assert recognise_format(ROWS[form]) == form
    sample = FORMATS[form](ROWS[form])
    if sample.kind == "conversation":
        assert sample.messages[-1]["role"] == "assistant" and sample.messages[0]["role"] == "user"


def test_what_the_forms_mean() -> None:
    assert FORMATS["alpaca"](ROWS["alpaca"]).messages[0] == {"role": "user", "content": "Add.", "input": "2 2"}
    assert "input" not in FORMATS["alpaca"]({**ROWS["alpaca"], "input": None}).messages[0]
    assert FORMATS["alpaca"]({**ROWS["alpaca"], "input": " "}).messages[0]["input"] == " "
    assert FORMATS["belle"](ROWS["alpaca"]).messages[0]["content"] == "Add.2 2"
    assert [m["content"] for m in FORMATS["chatglm"](ROWS["chatglm"]).messages] == ["a", "A", "b", "c"]
    assert [m["content"] for m in FORMATS["chip2"](ROWS["chip2"]).messages] == ["Hi", "Ho"]
    assert FORMATS["oasst1"](ROWS["text"]) == FORMATS["text"](ROWS["text"])
    assert FORMATS["self-instruct"](ROWS["prompt-completion"]) == FORMATS["prompt-completion"](
        ROWS["prompt-completion"]
    )
    assert FORMATS["xp3"](ROWS["xp3"]).completion == " Yes"
    assert FORMATS["xp3"]({"inputs": "def f():\n", "targets": "    pass"}).completion == "    pass"
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    by_parts = {"messages": [{"role": "user", "content": parts}, ROWS["messages"]["messages"][1]]}
    assert FORMATS["messages"](by_parts) == FORMATS["messages"](ROWS["messages"])


@pytest.mark.parametrize(("name", "column", "user", "assistant"), [
    ("sharegpt", "conversations", {"from": "human", "value": "More?"}, {"from": "gpt", "value": "Welcome!"}),
    ("messages", "messages", {"role": "user", "content": "More?"}, {"role": "assistant", "content": "Welcome!"}),
])  # fmt: skip
def test_a_greeting_is_kept_and_a_last_question_is_left_out(name: str, column: str, user: Any, assistant: Any) -> None:
    turns = ROWS[name][column]
    plain = FORMATS[name](ROWS[name])
    assert not plain.greeting and not plain.lost_question
    greeted = FORMATS[name]({column: [assistant, *turns]})
    assert greeted.greeting and greeted.messages == [{"role": "assistant", "content": "Welcome!"}, *plain.messages]
    asked = FORMATS[name]({column: [*turns, user]})
    assert asked.lost_question and asked.messages == plain.messages
    assert FORMATS[name]({column: [assistant, *turns, user]}).messages == greeted.messages
    for nothing_to_learn in ([assistant], [assistant, user], [user], [*turns, user, user]):
        with pytest.raises(InvalidRow, match="alternate"):
            FORMATS[name]({column: nothing_to_learn})


@pytest.mark.parametrize(
    ("form", "change", "why"),
    [
        ("alpaca", {"output": ""}, "'output' is empty"),
        ("alpaca", {"output": 4}, "'output' holds int"),
        ("alpaca", {"input": 5}, "'input' holds int"),
        ("adgen", {"summary": None}, "'summary' holds NoneType"),
        ("sharegpt", {"conversations": []}, "not a list of messages"),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]},
            "alternate",
        ),
        ("sharegpt", {"conversations": [{"from": "robot", "value": "a"}]}, "turn 1 is by 'robot'"),
        ("messages", {"messages": [{"role": "tool", "content": "a"}]}, "the role 'tool'"),
        ("messages", {"messages": [{"role": "user", "content": "a"}]}, "alternate"),
        ("messages", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}, "turn 2"),
        ("chatglm", {"history": [["only a question"]]}, "pairs"),
        ("chatglm", {"history": "nonsense"}, "not JSON"),
        ("moss", {"chat": {"turn_2": {}}}, "turn_1"),
        ("chip2", {"text": "no reply"}, "<bot>"),
    ],
)
def test_a_bad_row_says_why(form: str, change: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRow, match=why):
        FORMATS[form]({**ROWS[form], **change})


def test_unknown_columns_and_forms_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="columns a, b") as raised:
        recognise_format({"a": 1, "b": 2})
    assert "instruction + output" in raised.value.hint and raised.value.hint_zh != raised.value.hint
    with pytest.raises(InvalidRequest, match=r"data\.format is .alpacca."):
        find_format("alpacca")


TABLE = [{"prompt": "1+1=", "completion": "2"}, {"prompt": "含有\n换行, 逗号", "completion": '"x"'}]


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(TABLE, indent=1, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, TABLE)), encoding="utf-8-sig")
    import csv

    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"a.{suffix}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, TABLE[0], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(TABLE)
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(TABLE), tmp_path / "a.parquet")
    for suffix in ("json", "jsonl", "csv", "tsv", "parquet"):
        rows = list(read_rows(tmp_path / f"a.{suffix}"))
        assert [row.values for row in rows] == TABLE, suffix
    assert len(list(read_rows(tmp_path))) == 10  # a folder: all of them
    lines = [row.line for row in read_rows(tmp_path / "a.json")], [row.line for row in read_rows(tmp_path / "a.jsonl")]
    assert lines == ([2, 6], [1, 3])


def test_text_files_are_cut_at_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n", encoding="utf-8")
    rows = list(read_rows(tmp_path / "a.txt"))
    assert [(row.line, row.values["text"]) for row in rows] == [(1, "one\ntwo"), (5, "three")]


def test_rows_that_cannot_be_read_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n[1]\n{"text": "b"}\n', encoding="utf-8")
    rows = list(read_rows(tmp_path / "a.jsonl"))
    assert [(row.line, bool(row.fault)) for row in rows] == [(1, False), (2, True), (3, True), (4, False)]
    (tmp_path / "b.csv").write_text("a,b\n1,2\n3\n4,5,6\n7,8\n", encoding="utf-8")
    rows = list(read_rows(tmp_path / "b.csv"))
    assert [bool(row.fault) for row in rows] == [False, True, True, False]
    assert "2 columns" in rows[1].fault


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1},\n {"a": ]', encoding="utf-8")
    with pytest.raises(Damaged, match="line 2"):
        list(read_rows(tmp_path / "a.json"))
    (tmp_path / "b.jsonl").write_bytes('{"text": "名"}'.encode("gbk"))
    with pytest.raises(Damaged, match="not UTF-8"):
        list(read_rows(tmp_path / "b.jsonl"))
    (tmp_path / "c.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(Damaged, match="Parquet"):
        list(read_rows(tmp_path / "c.parquet"))
    (tmp_path / "d.xlsx").write_bytes(b"PK")
    with pytest.raises(InvalidRequest, match="not a data file"):
        list(read_rows(tmp_path / "d.xlsx"))
    with pytest.raises(NotFound):
        list(read_rows(tmp_path / "none.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound):
        list(read_rows(tmp_path / "empty"))
