"""Metrics of overlap, the comparison of two models and its report."""

from __future__ import annotations

import pytest

from ninestory.evaluation.before_after import HeldOutExample, compare, measure, score
from ninestory.evaluation.bleu import bleu4
from ninestory.evaluation.paired import bootstrap_difference
from ninestory.evaluation.rouge import mixed_tokens
from ninestory.evaluation.tuning_report import RowCounts, TuningReport, as_html, as_markdown

CASES = [HeldOutExample(f"What is {n} and {n}?", f"it is {2 * n}") for n in range(1, 21)]


def test_bleu_against_values_worked_out_by_hand() -> None:
    assert bleu4("今天天气很好", "今天天气很好") == pytest.approx(1.0)
    assert bleu4("abc", "xyz") == 0.0
    # 5 of 5 characters, 3 of 4 pairs, 1 of 3 triples, no run of four: (1 · 3/4 · 1/3 · (1/2)/2)^¼
    assert bleu4("abcxde", "abcde") == pytest.approx((1 * 3 / 4 * 1 / 3 * 0.25) ** 0.25 * 2.718281828 ** (1 - 6 / 5))


def test_chinese_is_cut_by_characters_and_english_by_words() -> None:
    assert mixed_tokens("GPT-4 说：你好, naïve world") == ["gpt", "4", "说", "你", "好", "naïve", "world"]
    assert score("今天天气很好", "今天天气不好").rouge_l == pytest.approx(5 / 6)


def sides(base: str, tuned: str, losses: tuple[float, float], general: tuple[float, float]):
    return (
        measure(CASES, losses[0], general[0], lambda prompt: base),
        measure(CASES, losses[1], general[1], lambda prompt: f"it is {2 * int(prompt.split()[2])}" if tuned else base),
    )


def test_a_gain_on_every_case_is_certain() -> None:
    made = compare(CASES, *sides("no idea", "right", (3.0, 1.0), (2.0, 2.02)))
    assert made.verdict == "better" and made.rouge_l.certain
    assert made.tuned.mean("exact") == 1.0 and made.base.mean("exact") == 0.0
    assert made.forgotten == pytest.approx(0.01)


def test_no_difference_in_the_answers_is_unclear_whatever_the_loss() -> None:
    made = compare(CASES, *sides("no idea", "", (3.0, 2.9), (2.0, 2.0)))
    assert made.verdict == "unclear"


def test_the_interval_is_wide_for_few_and_narrow_for_many() -> None:
    differences = [0.1, -0.1, 0.3]
    few, many = (bootstrap_difference([0.0] * 3 * n, differences * n) for n in (1, 100))
    assert few.high - few.low > 4 * (many.high - many.low)
    assert few.value == pytest.approx(many.value)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_holds_curve_table_samples_and_no_live_markup(language) -> None:
    hostile = [HeldOutExample("<script>alert(1)</script>", "x")]
    side = measure(hostile, 2.0, 1.0, lambda _: "<img src=http://evil>")
    worse = measure(hostile, 1.5, 1.2, lambda _: "x")
    report = TuningReport(
        "run", {"method": "lora"}, [(1, 2.0), (2, 1.5)], [(2, 1.6)], compare(hostile, side, worse), language,
        RowCounts(lost_questions=7),
    )  # fmt: skip
    page, text = as_html(report), as_markdown(report)
    assert "<script" not in page and "<img" not in page and "<polyline" in page
    assert "20%" in report.verdict()  # the general text's loss grew from 1.0 to 1.2
    for made in (page, text):
        assert "1.5000" in made and "lora" in made
        assert report.notes()[0] in made and "7" in report.notes()[0] and len(report.notes()) == 1
    assert ("微调后" in text) == (language == "zh")
