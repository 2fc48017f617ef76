"""A finding of the doctor: severity, title and cure, in both languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ninestory.models.catalogue import Text

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    level: Level
    title: Text
    cure: Text


def ok(en: str, zh: str) -> Finding:
    return Finding("ok", Text(en, zh), Text("", ""))


def note(en: str, zh: str, cure: str, cure_zh: str) -> Finding:
    return Finding("note", Text(en, zh), Text(cure, cure_zh))


def problem(en: str, zh: str, cure: str, cure_zh: str) -> Finding:
    return Finding("problem", Text(en, zh), Text(cure, cure_zh))
