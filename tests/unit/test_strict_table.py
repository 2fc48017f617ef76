"""Dataclasses from tables: nothing unknown, nothing converted, the first fault named by its dotted key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ninestory.core.strict_table import TableError, read_table


@dataclass(frozen=True)
class Inner:
    count: Annotated[int, Field(ge=0)] = 1
    rate: float = 0.5
    names: str | list[str] = "all"
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    title: str
    inner: Inner = Inner()
    more: list[Inner] = field(default_factory=list)
    extra: Inner | None = None


def test_a_table_becomes_its_dataclass() -> None:
    table = {"title": "t", "inner": {"rate": 2, "names": ["x"]}, "more": [{"count": 3}], "extra": {"mode": "b"}}
    assert read_table(Outer, table) == Outer("t", Inner(rate=2.0, names=["x"]), [Inner(3)], Inner(mode="b"))


@pytest.mark.parametrize(
    ("table", "key", "problem", "words"),
    [
        ({}, "title", "missing", ""),
        ({"title": 3}, "title", "invalid", "expected text"),
        ({"title": "t", "inner": {"count": -1}}, "inner.count", "invalid", "'-1'; expected 0 or more"),
        ({"title": "t", "inner": {"count": True}}, "inner.count", "invalid", "expected a whole number"),
        ({"title": "t", "inner": {"count": "4"}}, "inner.count", "invalid", "expected a whole number"),
        ({"title": "t", "inner": {"names": 3}}, "inner.names", "invalid", "expected text or a list"),
        ({"title": "t", "inner": {"mode": "c"}}, "inner.mode", "invalid", "expected one of a, b"),
        ({"title": "t", "inner": []}, "inner", "invalid", "expected a table"),
        ({"title": "t", "inner": {"cuont": 1}}, "inner.cuont", "unknown", ""),
        ([], "", "invalid", "the table is '[]'; expected a table"),
    ],
)
def test_the_first_fault_is_named(table: Any, key: str, problem: str, words: str) -> None:
    with pytest.raises(TableError) as raised:
        read_table(Outer, table)
    assert (raised.value.key, raised.value.problem) == (key, problem) and words in str(raised.value)


def test_an_unknown_key_comes_with_the_nearest() -> None:
    with pytest.raises(TableError) as raised:
        read_table(Outer, {"title": "t", "inner": {"cuont": 1}})
    assert raised.value.nearest == "inner.count" and raised.value.known == ["count", "rate", "names", "mode"]
