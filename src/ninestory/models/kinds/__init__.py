"""What a model is, by what lies at its path: one module a modality. Nothing is taken for a chat model by default."""

from __future__ import annotations

from pathlib import Path

from ninestory.core.errors import Unsupported
from ninestory.core.tasks import Task
from ninestory.models.kinds import image, speech, text
from ninestory.models.kinds.contents import ModelKind

KINDS = (image, speech, text)

__all__ = ["KINDS", "ModelKind", "describe", "tasks_of_family"]


def describe(path: Path) -> ModelKind:
    """What the file or folder at `path` is.

    Raises:
        Unsupported: it is none of the known kinds; the message lists what was looked for.
        Damaged: a file that had to be read is cut short, or asks for code.
    """
    for kind in KINDS:
        if kind.matches(path):
            return kind.describe(path)
    raise Unsupported(
        f"{path.name} is no model of a known kind. Looked for: {'; '.join(kind.LOOKED_FOR for kind in KINDS)}.",
        hint="Name the model's own file or folder; 'ninestory doctor PATH' says what is missing.",
        hint_zh="请指定模型自身的文件或目录；ninestory doctor 路径 会说明缺少什么。",
        param="model",
        code="unknown_kind",
    )


def tasks_of_family(family: str) -> tuple[Task, ...]:
    """What the models of one of the catalogue's families are for; () for a family without models of its own."""
    return next((kind.FAMILIES[family] for kind in KINDS if family in kind.FAMILIES), ())
