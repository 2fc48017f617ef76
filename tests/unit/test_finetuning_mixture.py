"""Weights of data files, rows kept apart, and data that never lies in memory whole."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Damaged, InvalidRequest
from ninestory.floors.finetuning import data_files
from ninestory.floors.finetuning.data_files import read_rows
from ninestory.floors.finetuning.example_file import ExampleFile, SelectedExamples, TrainingExample
from ninestory.floors.finetuning.examples import DataSource
from ninestory.floors.finetuning.formats import Sample
from ninestory.floors.finetuning.mixture import held_out_places, mix
from ninestory.training.batches import IGNORED, PreferencePair, TokenRow, rows_of_step

pytest.importorskip("torch")
SOURCES = [DataSource("a.jsonl", 0, 10), DataSource("b.jsonl", 10, 14)]


def test_weights_say_how_often_a_file_s_rows_come() -> None:
    order, shares = mix(SOURCES, [], frozenset(), seed=1)
    assert list(order) == list(range(14))
    order, shares = mix(SOURCES, [0.5, 2.0], frozenset({0, 13}), seed=1)
    first, second = [i for i in order if i < 10], [i for i in order if i >= 10]
    assert len(first) == len(set(first)) == 4 and 0 not in first  # half of the nine that are left, rounded to even
    assert sorted(second) == [10, 10, 11, 11, 12, 12]
    assert [(s.name, s.rows, s.weight, s.used) for s in shares] == [("a.jsonl", 10, 0.5, 4), ("b.jsonl", 4, 2.0, 6)]
    assert mix(SOURCES, [0.5, 2.0], frozenset({0, 13}), seed=1)[0] == order
    assert mix(SOURCES, [0.5, 2.0], frozenset({0, 13}), seed=2)[0] != order


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="1 numbers; expected 2"):
        mix(SOURCES, [1.0], frozenset(), seed=0)
    with pytest.raises(InvalidRequest, match="no row to train on"):
        mix(SOURCES, [0.0, 0.0], frozenset(), seed=0)


def test_held_out_rows_are_some_but_never_all() -> None:
    assert held_out_places(1, 0.5, 0) == [] == held_out_places(50, 0.0, 0)
    assert len(held_out_places(50, 0.1, 0)) == 5 and len(held_out_places(10**5, 0.5, 0)) == 200


def test_rows_come_back_from_the_disk_as_they_were(tmp_path: Path) -> None:
    sample = Sample(
        "conversation", messages=[{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    )
    row, worse = TokenRow([5, 6, 70000], [IGNORED, 6, 70000]), TokenRow([5, 8], [IGNORED, 8])
    single = TrainingExample(row, sample, "a.jsonl", 3, cut=True)
    double = TrainingExample(
        row, Sample("text", completion="x", rejected=Sample("text", completion="y")), "b", 4, rejected=worse
    )
    kept = ExampleFile(tmp_path / "cache")
    for example in (single, double, single):
        kept.append(example)
    assert [*kept] == [single, double, single] and kept[-1] == single and kept[1:] == [double, single]
    assert kept.training_row(0) == row and kept.training_row(1) == PreferencePair(row, worse)
    picked = SelectedExamples(kept, [1, 1, 0])
    assert picked[2] == single and picked[:2] == [double, double]
    assert list(picked.rows) == [PreferencePair(row, worse)] * 2 + [row] == picked.rows[:]
    assert list((tmp_path / "cache").iterdir()) == []  # the file has no name: nothing stale is ever found
    with pytest.raises(IndexError):
        kept[3]


def test_data_takes_a_few_bytes_a_row_of_memory(tmp_path: Path) -> None:
    """5,000 rows of 200 tokens: 9 MB as lists of Python's numbers, 5 MB on the disk, an index of a few bytes here."""
    row = TokenRow(list(range(1000, 1200)), [IGNORED] * 100 + list(range(1100, 1200)))
    kept = ExampleFile(tmp_path)
    tracemalloc.start()
    for number in range(5_000):
        kept.append(TrainingExample(row, Sample("text", completion="x"), "a.jsonl", number))
    order, _ = mix([DataSource("a.jsonl", 0, 5_000)], [2.0], frozenset(), seed=0)
    rows = SelectedExamples(kept, order).rows
    for step in range(3):
        assert [rows[i] for i in rows_of_step(step, len(rows), 4, seed=0)] == [row] * 4
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_200_000


def test_a_json_list_is_read_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = [{"text": 'a "quoted" \\ 好' * n, "n": n, "deep": {"x": [1, True, None]}} for n in range(1, 30)]
    for indent in (None, 1):
        path = tmp_path / "a.json"
        path.write_text("\n" + json.dumps(rows, indent=indent, ensure_ascii=indent is None), encoding="utf-8")
        expected = [(row.line, row.values) for row in read_rows(path)]
        assert [values for _, values in expected] == rows
        for block in (1, 7, 50):
            monkeypatch.setattr(data_files, "_BLOCK", block)
            assert [(row.line, row.values) for row in read_rows(path)] == expected
    monkeypatch.setattr(data_files, "_BLOCK", 40)
    path.write_text('[{"a": 1},\n{"a": 1, b},\n' + '{"a": 2},\n' * 50 + "]")
    with pytest.raises(Damaged, match=r"a\.json, line 2: this is not JSON"):
        list(read_rows(path))
    path.write_text('[{"a": 1},\n{"a": ')
    with pytest.raises(Damaged, match="line 2"):
        list(read_rows(path))
