"""The report of a tuning run: curve, table before and after, samples side by side and a verdict; HTML and Markdown.

One self-contained file each: no script, no image beside it, nothing fetched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from ninestory.evaluation.before_after import MOST_FORGOTTEN, Comparison

Language = Literal["en", "zh"]
SAMPLES = 12
_WIDTH, _HEIGHT, _MARGIN = 640, 240, 44

_WORDS: dict[str, dict[Language, str]] = {
    "before": {"en": "before", "zh": "微调前"},
    "after": {"en": "after", "zh": "微调后"},
    "change": {"en": "change", "zh": "变化"},
    "loss": {"en": "loss on held-out rows", "zh": "留出数据的损失"},
    "perplexity": {"en": "perplexity", "zh": "困惑度"},
    "preferred": {"en": "better answer preferred", "zh": "偏好更优回答的比例"},
    "invalid": {
        "en": "{count} rows of the data could not be used and were left out.",
        "zh": "有 {count} 行数据无法使用，已跳过。",
    },
    "lost_questions": {
        "en": "{count} conversations ended with a question; that turn was left out and the rest was kept.",
        "zh": "有 {count} 段对话以提问结尾：已去掉该轮，其余保留。",
    },
    "lost_greetings": {
        "en": "{count} conversations lost the assistant's greeting, which the model's template has no place for.",
        "zh": "有 {count} 段对话去掉了助手的开场白：模型自带的模板不支持。",
    },
    "general": {"en": "loss on general text", "zh": "通用文本的损失"},
    "exact": {"en": "exact answers", "zh": "完全一致的回答"},
    "samples": {"en": "Samples", "zh": "样例"},
    "asked": {"en": "asked", "zh": "问题"},
    "wanted": {"en": "wanted", "zh": "期望回答"},
    "curve": {"en": "Loss over the steps", "zh": "损失曲线"},
    "recipe": {"en": "Recipe", "zh": "配方"},
    "better": {"en": "The tuned model is better on the held-out rows.", "zh": "微调后的模型在留出数据上更好。"},
    "worse": {"en": "The tuned model is worse on the held-out rows.", "zh": "微调后的模型在留出数据上更差。"},
    "unclear": {
        "en": "The measures disagree, or the difference may be chance: more held-out rows are needed.",
        "zh": "各项指标不一致，或差异可能出于偶然：需要更多留出数据。",
    },
    "forgot": {
        "en": "It has forgotten some of what it knew: the loss on general text grew by {share:.0%}. "
        "A lower rate, fewer steps or general data in the mixture help.",
        "zh": "模型遗忘了部分原有能力：通用文本的损失上升 {share:.0%}。可降低学习率、减少步数或混入通用数据。",
    },
}


@dataclass(frozen=True)
class RowCounts:
    """What happened to rows of the data: left out whole, or shortened by one turn."""

    invalid: int = 0
    lost_questions: int = 0
    lost_greetings: int = 0


@dataclass(frozen=True)
class TuningReport:
    """Contents of a report. `training`, `evaluations`: (step, loss). `recipe`: the resolved recipe as plain data."""

    title: str
    recipe: dict[str, Any]
    training: Sequence[tuple[int, float]]
    evaluations: Sequence[tuple[int, float]]
    comparison: Comparison
    language: Language = "en"
    data: RowCounts = RowCounts()

    def word(self, name: str) -> str:
        return _WORDS[name][self.language]

    def verdict(self) -> str:
        """One or two sentences."""
        forgotten = self.comparison.forgotten
        warning = ""
        if forgotten is not None and forgotten > MOST_FORGOTTEN:
            warning = " " + self.word("forgot").format(share=forgotten)
        return self.word(self.comparison.verdict) + warning

    def notes(self) -> list[str]:
        """A sentence for each way in which rows of the data were left out or shortened."""
        counts = dataclasses.asdict(self.data)
        return [self.word(name).format(count=count) for name, count in counts.items() if count]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The table: measure, before, after, change."""
        base, tuned = self.comparison.base, self.comparison.tuned
        rows = [
            (self.word("loss"), f"{base.loss:.4f}", f"{tuned.loss:.4f}", f"{tuned.loss - base.loss:+.4f}"),
        ]
        if tuned.preferred is None:
            rows.append((self.word("perplexity"), f"{base.perplexity:.2f}", f"{tuned.perplexity:.2f}", ""))
        else:
            rows.append((self.word("preferred"), "", f"{tuned.preferred:.1%}", ""))
        if base.general_loss is not None and tuned.general_loss is not None:
            change = f"{self.comparison.forgotten or 0:+.1%}"
            rows.append((self.word("general"), f"{base.general_loss:.4f}", f"{tuned.general_loss:.4f}", change))
        if base.each:
            spread = self.comparison.rouge_l
            names = {"ROUGE-1": "rouge_1", "ROUGE-2": "rouge_2", "ROUGE-L": "rouge_l", "BLEU-4": "bleu_4"}
            for label, name in {**names, self.word("exact"): "exact"}.items():
                before, after = base.mean(name), tuned.mean(name)
                interval = f" [{spread.low:+.3f}, {spread.high:+.3f}]" if name == "rouge_l" else ""
                rows.append((label, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}{interval}"))
        return rows

    def samples(self) -> list[tuple[str, str, str, str]]:
        """(prompt, wanted, before, after) of the first cases."""
        comparison = self.comparison
        answers = zip(comparison.cases, comparison.base.answers, comparison.tuned.answers, strict=False)
        return [(case.prompt, case.target, before, after) for case, before, after in answers][:SAMPLES]


def as_markdown(report: TuningReport) -> str:
    """The report without its curve."""
    head = [f"# {report.title}", "", report.verdict(), "", f"| | {report.word('before')} | {report.word('after')} | |"]
    lines = [*head, "|---|---|---|---|", *("| " + " | ".join(row) + " |" for row in report.rows())]
    for number, (prompt, wanted, before, after) in enumerate(report.samples(), start=1):
        lines += ["", f"## {report.word('samples')} {number}"]
        parts = {"asked": prompt, "wanted": wanted, "before": before, "after": after}
        lines += [f"- **{report.word(name)}**: {_one_line(text)}" for name, text in parts.items()]
    lines += [
        "",
        *report.notes(),
        "",
        f"## {report.word('recipe')}",
        "",
        *(f"- {name}: {value}" for name, value in report.recipe.items()),
    ]
    return "\n".join(lines) + "\n"


def as_html(report: TuningReport) -> str:
    """The whole report as one page."""
    table = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in report.rows())
    samples = "".join(
        f"<tr>{''.join(f'<td><pre>{escape(cell)}</pre></td>' for cell in sample)}</tr>" for sample in report.samples()
    )
    heads = "".join(f"<th>{report.word(name)}</th>" for name in ("asked", "wanted", "before", "after"))
    recipe = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in report.recipe.items())
    return (
        f'<!doctype html><html lang="{report.language}"><meta charset="utf-8"><title>{escape(report.title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(report.title)}</h1><p class=verdict>{escape(report.verdict())}</p>"
        f"<table><tr><th><th>{report.word('before')}<th>{report.word('after')}<th>{report.word('change')}</tr>{table}"
        f"</table><h2>{report.word('curve')}</h2>{_curve(report)}"
        f"<h2>{report.word('samples')}</h2><table><tr>{heads}</tr>{samples}</table>"
        f"{''.join(f'<p>{escape(note)}</p>' for note in report.notes())}"
        f"<h2>{report.word('recipe')}</h2><table>{recipe}</table></html>"
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse}td,th{border-bottom:1px solid #8884;padding:.3rem .8rem;text-align:left;"
    "vertical-align:top}pre{white-space:pre-wrap;margin:0;font:inherit}.verdict{font-size:1.2rem}"
    "svg{max-width:100%}.train{stroke:#2563eb}.held{stroke:#ea580c}polyline{fill:none;stroke-width:1.5}"
    "text{font-size:11px;fill:currentColor}line{stroke:#8886}"
)


def _curve(report: TuningReport) -> str:
    """Both losses over the steps as SVG, the axes labelled at their ends."""
    points = [*report.training, *report.evaluations]
    if not points:
        return ""
    last = max(step for step, _ in points) or 1
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    span = (high - low) or 1.0

    def place(step: int, loss: float) -> str:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * step / last
        return f"{x:.1f},{_MARGIN / 2 + (_HEIGHT - _MARGIN) * (high - loss) / span:.1f}"

    lines = "".join(
        f'<polyline class="{name}" points="{" ".join(place(*point) for point in series)}"/>'
        for name, series in (("train", report.training), ("held", report.evaluations))
        if series
    )
    bottom = _HEIGHT - _MARGIN / 2
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(report.word("curve"))}">'
        f'<line x1="{_MARGIN}" y1="{bottom}" x2="{_WIDTH - _MARGIN}" y2="{bottom}"/>'
        f'<text x="2" y="{_MARGIN / 2 + 4}">{high:.3f}</text><text x="2" y="{bottom}">{low:.3f}</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 4}" text-anchor="end">{last}</text>{lines}</svg>'
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
