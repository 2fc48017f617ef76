"""Tasks, stored results, paired comparison and error rates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ninestory.core.errors import Cancelled, InvalidRequest
from ninestory.core.progress import Silent
from ninestory.evaluation.error_rate import character_error_rate, edit_distance, word_error_rate
from ninestory.evaluation.paired import bootstrap_difference, mcnemar
from ninestory.evaluation.results import ModelIdentity, ResultsFile
from ninestory.evaluation.task import EvalCase, EvalTask, run_task


def task_of(count: int, **settings: object) -> EvalTask:
    return EvalTask(
        name="double",
        asked="generate",
        cases=[EvalCase(str(n), n, 2 * n) for n in range(count)],
        metrics={"exact": lambda case, output: output == case.target, "odd": lambda case, output: float("nan")},
        settings=settings,
    )


def test_a_run_that_was_cut_off_asks_only_what_is_missing(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(case: EvalCase) -> int:
        asked.append(case.id)
        return 2 * case.request + (case.id == "1")

    progress = Silent()

    def ask_until_cancelled(case: EvalCase) -> int:
        progress.cancelled = case.id == "2"
        return ask(case)

    path = tmp_path / "results.jsonl"
    with ResultsFile(path, ModelIdentity("m")) as results, pytest.raises(Cancelled):
        run_task(task_of(5), ask_until_cancelled, results=results, progress=progress)
    path.write_bytes(path.read_bytes() + b'{"key": "half a li')
    with ResultsFile(path, ModelIdentity("m")) as results:
        result = run_task(task_of(5), ask, results=results)
    assert asked == ["0", "1", "2", "3", "4"]
    assert result.values("exact") == [1, 0, 1, 1, 1] and result.mean("exact") == 0.8
    assert math.isnan(result.mean("odd"))
    with ResultsFile(path, ModelIdentity("m")) as results:
        run_task(task_of(5), ask, results=results)
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("identity", "settings"),
    [
        (ModelIdentity("other"), {}),
        (ModelIdentity("m", adapter="a"), {}),
        (ModelIdentity("m", dtype="int8"), {}),
        (ModelIdentity("m"), {"shots": 5}),
    ],
)
def test_another_model_or_setting_never_meets_an_old_result(
    tmp_path: Path, identity: ModelIdentity, settings: dict[str, int]
) -> None:
    path = tmp_path / "results.jsonl"
    with ResultsFile(path, ModelIdentity("m")) as results:
        run_task(task_of(2), lambda case: 0, results=results)
    with ResultsFile(path, identity) as results:
        assert run_task(task_of(2, **settings), lambda case: 2 * case.request, results=results).mean("exact") == 1


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"text": "a row of data"}\n')
    with pytest.raises(InvalidRequest, match="line 1"):
        ResultsFile(path, ModelIdentity("m"))
    assert path.read_text() == '{"text": "a row of data"}\n'


def test_mcnemar_against_the_binomial() -> None:
    first = [True] * 3 + [False] * 10 + [True] * 7
    second = [False] * 3 + [True] * 10 + [True] * 7
    test = mcnemar(first, second)
    assert (test.gained, test.lost) == (10, 3)
    assert test.p_value == pytest.approx(2 * sum(math.comb(13, k) for k in range(4)) / 2**13)
    assert mcnemar([True], [True]).p_value == 1.0
    with pytest.raises(ValueError):
        mcnemar([True], [])


def test_the_interval_of_a_constant_difference_is_that_difference() -> None:
    difference = bootstrap_difference([0.25] * 8, [0.75] * 8)
    assert (difference.value, difference.low, difference.high, difference.certain) == (0.5, 0.5, 0.5, True)
    assert not bootstrap_difference([], []).certain


def test_error_rates_over_a_corpus() -> None:
    assert edit_distance("", "abc") == 3 and edit_distance("abc", "") == 3
    words = word_error_rate([("the cat sat", "the hat sat down"), ("yes", "yes")])
    assert (words.edits, words.units, words.rate) == (2, 4, 0.5)
    assert word_error_rate([("The Cat", "the cat")], str.lower).rate == 0
    assert character_error_rate([("今天 天气", "今天天汽")]).rate == 0.25
    assert word_error_rate([("", "a")]).rate == float("inf") and word_error_rate([]).rate == 0
