"""Dataclasses from plain tables (YAML, TOML, JSON), strictly: every key known, every value of its type.

The one way for recipes and the catalogue; the caller turns a `TableError` into its own error with a hint.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "dataclass_type": "a table",
    "dataclass_exact_type": "a table",
}


class TableError(ValueError):
    """A table does not fit its dataclass.

    Attributes:
        key: dotted path of the key; "" for the whole table.
        problem: "unknown", "missing" or "invalid".
        expected: what an invalid value should have been.
        nearest: the known key most like an unknown one, dotted; "" when none is.
        known: keys that are known where an unknown one stands.
    """

    def __init__(
        self,
        key: str,
        problem: Literal["unknown", "missing", "invalid"],
        value: Any = None,
        expected: str = "",
        nearest: str = "",
        known: Sequence[str] = (),
    ) -> None:
        self.key, self.problem, self.expected, self.nearest, self.known = key, problem, expected, nearest, known
        shown = f"{key or 'the table'} is {str(value)[:60]!r}; expected {expected}"
        super().__init__(shown if problem == "invalid" else f"the key {key!r} is {problem}")


def read_table(cls: type[T], table: Any) -> T:
    """Build the dataclass `cls` from a table of plain JSON-like values; whole numbers pass as floats, nothing else.

    Raises:
        TableError: with the first key that is unknown, missing or of another type.
    """
    try:
        adapter: TypeAdapter[T] = _adapter(cls)  # type: ignore[arg-type]  # a class is hashable
        return adapter.validate_json(json.dumps(table, default=str), strict=True, extra="forbid")
    except ValidationError as error:
        raise _first_problem(cls, error) from error


@lru_cache(maxsize=32)
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _first_problem(cls: Any, error: ValidationError) -> TableError:
    problems: list[Mapping[str, Any]] = error.errors(include_url=False)  # type: ignore[assignment]
    unknown = [p for p in problems if p["type"] == "unexpected_keyword_argument"]
    first = (unknown or problems)[0]
    path, owner = _known_path(cls, first["loc"])
    key = ".".join(path)
    if unknown:
        names = [field.name for field in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        name = str(first["loc"][-1])
        near = difflib.get_close_matches(name, names, n=1)
        nearest = ".".join([*path, near[0]]) if near else ""
        return TableError(".".join([*path, name]), "unknown", nearest=nearest, known=names)
    if first["type"] in ("missing", "missing_argument"):
        return TableError(".".join([*path, str(first["loc"][-1])] if first["loc"][-1] not in path else path), "missing")
    same = [p for p in problems if _known_path(cls, p["loc"])[0] == path]
    expected = list(dict.fromkeys(_expected(problem) for problem in same))
    return TableError(key, "invalid", first["input"], " or ".join(expected))


def _expected(problem: Mapping[str, Any]) -> str:
    context = problem.get("ctx") or {}
    if problem["type"] == "literal_error":
        return "one of " + str(context["expected"]).replace("'", "").replace(" or ", ", ")
    if problem["type"] == "greater_than_equal":
        return f"{context['ge']} or more"
    return _EXPECTED.get(problem["type"], str(problem["msg"]))


def _known_path(cls: Any, location: tuple[Any, ...]) -> tuple[list[str], Any]:
    """The part of an error's location that names fields (not union members or list places), and its last owner."""
    path: list[str] = []
    owner: Any = cls
    for part in location:
        if not dataclasses.is_dataclass(owner) or part not in {field.name for field in dataclasses.fields(owner)}:
            break
        path.append(part)
        owner = _dataclass_in(typing.get_type_hints(owner)[part])
    return path, owner


def _dataclass_in(hint: Any) -> Any:
    """The dataclass of a field's type, through `list[…]` and `… | None`; the type itself when there is none."""
    options = (hint, *typing.get_args(hint))
    return next((option for option in options if dataclasses.is_dataclass(option)), hint)
