"""Recipe files: YAML in and out, checked against the schema of the recipe's kind.

A recipe is a frozen dataclass with `kind`, the shared `train:` and parts of its floor; its `RENAMED_KEYS` maps keys of
older releases to today's. `floors/recipes.py` finds the schema of a kind.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.core.machine import gpus
from ninestory.core.regular_file import read_regular_text
from ninestory.core.strict_table import TableError, read_table

T = TypeVar("T")


class Summary(Protocol):
    """Result of a run or of an inspection."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""


@dataclass(frozen=True)
class Recipe:
    """Schema and actions of one kind of recipe.

    Attributes:
        schema: the dataclass of its values.
        run: (recipe, home, progress, *, force, suffix) → the outcome. `suffix`: of data files whose name has none.
        inspect: (recipe, home, progress, *, samples, suffix) → what would be learned from, without training.
        plan: (recipe, home, progress, *, suffix) → the predicted memory, or None where no shape is known.
    """

    schema: type[Any]
    run: Callable[..., Summary]
    inspect: Callable[..., Summary]
    plan: Callable[..., Any]


def recipe_from_table(schema: type[T], table: Any, where: str) -> T:
    """Build a recipe from plain data; every key and type is checked.

    Raises:
        InvalidRequest: a key that is unknown (with the nearest known one) or renamed, or a value of another type.
    """
    try:
        return read_table(schema, table)
    except TableError as error:
        raise _refusal(error, getattr(schema, "RENAMED_KEYS", {}), where) from error


def _refusal(error: TableError, renamed: dict[str, str], where: str) -> InvalidRequest:
    key = error.key
    if key in renamed:
        return InvalidRequest(
            f"{where} has the key {key!r}, which is now called {renamed[key]!r}.",
            hint=f"Rename {key} to {renamed[key]}.",
            hint_zh=f"请将 {key} 改名为 {renamed[key]}。",
            param=key,
            code="renamed_key",
        )
    if error.problem == "unknown":
        known = ", ".join(error.known)
        return InvalidRequest(
            f"{where} has the unknown key {key!r}.",
            hint=f"Did you mean {error.nearest!r}?" if error.nearest else f"Known here: {known}.",
            hint_zh=f"是否想写 {error.nearest!r}？" if error.nearest else f"此处可用：{known}。",
            param=key,
            code="unknown_key",
        )
    return InvalidRequest(
        f"{where}: {error}.",
        hint=f"Correct {key}." if key else "'ninestory tune new' writes a recipe with every key.",
        hint_zh=f"请修正 {key}。" if key else "运行 ninestory tune new 可生成包含全部字段的配方。",
        param=key or "recipe",
    )


def parse_yaml(text: str) -> Any:
    """Parse YAML without a schema; 1e-4 is a number (YAML 1.1 would read text).

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with the numbers of YAML 1.2."""

    number = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return yaml.load(text, Loader=Loader)


def read_recipe_file(path: Path) -> Any:
    """Read the table of a recipe file. Its part `on_cuda` replaces values where an NVIDIA card is.

    Raises:
        NotFound: no such file. InvalidRequest: it is not YAML.
    """
    import yaml

    try:
        table = parse_yaml(read_regular_text(path))
    except FileNotFoundError as error:
        raise NotFound(
            f"There is no recipe {path}.",
            hint="'ninestory tune new' writes one.",
            hint_zh="运行 ninestory tune new 可生成配方。",
            param="recipe",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{path.name} is not YAML: {error}", hint="Correct it.", hint_zh="请修正该文件。", param="recipe"
        ) from error
    if isinstance(table, dict) and (on_cuda := table.pop("on_cuda", None)) and any(gpu.cuda for gpu in gpus()):
        table = _merged(table, on_cuda)
    return table


def _merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in changes.items():
        merged[key] = _merged(table[key], value) if isinstance(value, dict) and key in table else value
    return merged


def with_values(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's table with dotted keys replaced: {"train.learning_rate": 1e-4}."""
    changed = {key: dict(value) if isinstance(value, dict) else value for key, value in table.items()}
    for dotted, value in changes.items():
        part, _, name = dotted.rpartition(".")
        owner = changed.setdefault(part, {}) if part else changed
        if isinstance(owner, dict):
            owner[name] = value
        else:
            changed[dotted] = value  # the schema refuses it as an unknown key
    return changed


def set_values(recipe: Any) -> dict[str, Any]:
    """Return only what differs from the schema's defaults, so that another kind's schema can take it."""
    table: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            if inner := set_values(value):
                table[field.name] = inner
        elif value != _default(field):
            table[field.name] = value
    return table


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def as_yaml(recipe: Any) -> str:
    """Write the recipe with a comment at every field, ready to be edited."""
    lines = [f"# {recipe.about}"] if recipe.about else []
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if not dataclasses.is_dataclass(value):
            if field.name != "about":
                lines.append(_yaml_line(field.name, value))
            continue
        comments = _field_comments(type(value))
        lines += ["", f"{field.name}:  # {(inspect.getdoc(type(value)) or '').splitlines()[0]}"]
        for inner in dataclasses.fields(value):
            lines += [f"  # {comments[inner.name]}", "  " + _yaml_line(inner.name, getattr(value, inner.name))]
    return "\n".join(lines) + "\n"


def _yaml_line(name: str, value: Any) -> str:
    return f"{name}: {json.dumps(value, ensure_ascii=False)}"


def _field_comments(cls: type) -> dict[str, str]:
    """Field → its line in the docstrings of the class and its bases."""
    comments: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        for names, text in re.findall(r"^ {4}([\w, ]+): (.+(?:\n {8}.+)*)", inspect.getdoc(base) or "", re.MULTILINE):
            for name in names.split(", "):
                comments[name] = " ".join(text.split())
    return comments
