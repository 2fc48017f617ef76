"""The guidelines for prompts as checks of a text: what a reader who knows them would remark on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ninestory.models.catalogue import Text


@dataclass(frozen=True)
class Remark:
    """One guideline: kept or not, and what to do. `rule` is its stable name."""

    rule: str
    kept: bool
    advice: Text


_RULES: list[tuple[str, str, Text]] = [
    (
        "delimiters",
        r'"""|```|\'\'\'|<([a-z][a-z0-9_-]*)>|^#{1,4} |^-{3,}$|【|“””|「',
        Text(
            "Put the text that is to be worked on between delimiters, such as <text> … </text>, and name them.",
            "请用分隔符（如 <text> … </text>）标出要处理的文本，并在指令中提到它。",
        ),
    ),
    (
        "output_format",
        r"\bjson\b|\bhtml\b|\btable\b|\bcsv\b|markdown|\blist\b|\bbullet|\bone line\b|\bone word\b|answer (only|with|exactly)"
        r"|\bonly the\b|\bwords?\b|\bsentences?\b|\bformat\b|格式|表格|列表|一行|一个词|只(回答|输出|写)|不超过|以.{0,6}形式",
        Text(
            "Say what the answer should look like: JSON with named keys, a table, one word, at most n sentences.",
            "请说明回答的形式：带键名的 JSON、表格、一个词、不超过几句话等。",
        ),
    ),
    (
        "conditions",
        r"\bif\b|\bunless\b|\botherwise\b|\bwhen there (is|are) no\b|如果|若|否则|没有.{0,12}(时|则)",
        Text(
            "Say what to answer when the text does not hold what is asked for: If …, answer exactly …",
            "请说明不满足条件时如何回答：如果……，只回答……",
        ),
    ),
    (
        "few_shot",
        r"\bfor (example|instance)\b|\be\.g\.|\bexamples?\b|\bsuch as\b|例如|比如|示例|例子|\bQ:.*\n+A:|输入[:：].*\n+输出[:：]",
        Text(
            "Show a finished example of what you want.",
            "请给出一个完成的示例。",
        ),
    ),
    (
        "steps",
        r"^\s*\d+[.)、]|\bstep (by step|\d)\b|\bfirst\b.*\bthen\b|\bsteps?\b|第[一二三四1-9]步|首先|逐步|一步一步",
        Text(
            "For work of several parts, number the steps, and let a solution be worked out before it is judged.",
            "任务较复杂时，请编号列出步骤；判断之前先让模型自己得出结果。",
        ),
    ),
]
_ESSENTIAL = ("delimiters", "output_format")


def lint(text: str, *, examples: int = 0) -> list[Remark]:
    """Which of the five guidelines a prompt keeps.

    Args:
        examples: finished examples that are shown beside the text (as messages).

    >>> [remark.rule for remark in lint("Translate it.") if not remark.kept]
    ['delimiters', 'output_format', 'conditions', 'few_shot', 'steps']
    """
    flags = re.IGNORECASE | re.MULTILINE | re.DOTALL
    return [
        Remark(rule, bool(re.search(pattern, text, flags)) or (rule == "few_shot" and examples > 0), advice)
        for rule, pattern, advice in _RULES
    ]


def essential_kept(remarks: list[Remark]) -> bool:
    """Whether data is delimited and the answer's form is said, which no prompt for a program can do without."""
    return all(remark.kept for remark in remarks if remark.rule in _ESSENTIAL)
