"""A recipe: everything that decides what a tuning run makes. Typed, read from YAML, written with comments.

model:    what is tuned, and in which prompt format
data:     which rows, of which form
method:   what is trained               (training/methods.py)
train:    how                           (training/loop.py)
evaluate: what is compared afterwards
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
import types
import typing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.core.regular_file import read_regular_text
from ninestory.training.settings import Method, TrainSettings


@dataclass(frozen=True)
class ModelPart:
    """What is tuned.

    Attributes:
        name: a model reference; a GGUF of LLaMA's shape is turned into float32 once.
        template: prompt format: a catalogue id, or checkpoint; empty = the model's own.
    """

    name: str = "starter:smollm2-135m-instruct"
    template: str = ""


@dataclass(frozen=True)
class DataPart:
    """Which rows.

    Attributes:
        train: files or folders (json, jsonl, csv, tsv, parquet, txt).
        weights: one a file of `train`: 1 = each row once an epoch, 2 = twice, 0.5 = a half of them; empty = all 1.
        held_out: files or folders for the evaluation; empty = a share of `train`.
        held_out_share: of the rows of `train`, when `held_out` is empty; at most 200 rows.
        form: of the rows; empty = recognised by the columns; corpus = plain text put end to end and cut into blocks.
        max_length: tokens of a row, or of a corpus's block; longer rows are cut.
        bad_rows: refuse the run because of a row that cannot be used, or skip and count it.
        limit: rows read at most; 0 = all.
    """

    train: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    held_out_share: float = 0.05
    form: str = ""
    max_length: int = 512
    bad_rows: Literal["refuse", "skip"] = "refuse"
    limit: int = 0


@dataclass(frozen=True)
class EvaluatePart:
    """What is compared afterwards, base against tuned.

    Attributes:
        answers: held-out rows that both models answer (for ROUGE, BLEU and exact match); 0 = losses only.
        max_tokens: of an answer.
        general: a text file that has nothing to do with the task, to see what was forgotten; empty = none.
        language: of the report: en or zh.
    """

    answers: int = 20
    max_tokens: int = 64
    general: str = ""
    language: Literal["en", "zh"] = "en"


@dataclass(frozen=True)
class Recipe:
    """What a run makes.

    Attributes:
        name: of the run's folder, and of the adapter.
        about: one line for people.
    """

    name: str = ""
    about: str = ""
    model: ModelPart = ModelPart()
    data: DataPart = DataPart()
    method: Method = Method()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluatePart = EvaluatePart()

    def with_changes(self, changes: dict[str, Any]) -> Recipe:
        """A recipe with dotted keys replaced: {"train.learning_rate": 1e-4}. Raises InvalidRequest like `from_dict`."""
        table = dataclasses.asdict(self)
        for key, value in changes.items():
            part, _, name = key.rpartition(".")
            place = table[part] if part and isinstance(table.get(part), dict) else table
            place[name if place is not table else key] = value
        return from_dict(table)


def from_dict(table: Any, where: str = "the recipe") -> Recipe:
    """A recipe from plain data; every key and type is checked.

    Raises:
        InvalidRequest: an unknown key (with the nearest known one), or a value of another type.
    """
    recipe = _build(Recipe, table, where, "")
    if recipe.name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", recipe.name):
        raise InvalidRequest(
            f"name is {recipe.name!r}; a run is named with letters, digits, '.', '_' and '-'.",
            hint="Choose another name.",
            hint_zh="请换一个名称。",
            param="name",
        )
    return recipe


def load(path: Path) -> Recipe:
    """Read a YAML recipe.

    Raises:
        NotFound: no such file. InvalidRequest: it is not YAML, or not a recipe.
    """
    import yaml

    try:
        table = yaml.safe_load(read_regular_text(path))
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
    return from_dict(table, path.name)


def as_yaml(recipe: Recipe) -> str:
    """The recipe with a comment at every field, ready to be edited."""
    lines = [f"# {recipe.about}"] if recipe.about else []
    lines += [_line("name", recipe.name)]
    for part in ("model", "data", "method", "train", "evaluate"):
        value = getattr(recipe, part)
        described = _described(type(value))
        lines += ["", f"{part}:  # {(inspect.getdoc(type(value)) or '').splitlines()[0]}"]
        for item in dataclasses.fields(value):
            lines += [f"  # {described[item.name]}", "  " + _line(item.name, getattr(value, item.name))]
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=1)
def ready() -> dict[str, Recipe]:
    """The recipes that come with the program, by name (data in `recipes/`)."""
    folder = Path(__file__).parent / "recipes"
    return {path.stem: load(path) for path in sorted(folder.glob("*.yaml"))}


def _line(name: str, value: Any) -> str:
    return f"{name}: {json.dumps(value, ensure_ascii=False)}"


def _described(cls: type) -> dict[str, str]:
    """Field → its line in the class's docstring."""
    described: dict[str, str] = {}
    for names, text in re.findall(r"^ {4}([\w, ]+): (.+(?:\n {8}.+)*)", inspect.getdoc(cls) or "", re.MULTILINE):
        for name in names.split(", "):
            described[name] = " ".join(text.split())
    return described


def _build(cls: Any, table: Any, where: str, prefix: str) -> Any:
    if not isinstance(table, dict):
        raise InvalidRequest(
            f"{prefix or where} is {type(table).__name__}, and a table was due.",
            hint="'ninestory tune new' writes a recipe with every key.",
            hint_zh="运行 ninestory tune new 可生成包含全部字段的配方。",
            param=prefix.rstrip(".") or "recipe",
        )
    kinds = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        full = f"{prefix}{key}"
        if key not in kinds:
            near = difflib.get_close_matches(str(key), kinds, n=1)
            raise InvalidRequest(
                f"{where} has the unknown key {full!r}.",
                hint=f"Did you mean {prefix}{near[0]!r}?" if near else f"Known here: {', '.join(kinds)}.",
                hint_zh=f"是否想写 {prefix}{near[0]!r}？" if near else f"此处可用：{'、'.join(kinds)}。",
                param=full,
                code="unknown_key",
            )
        nested = dataclasses.is_dataclass(kinds[key])
        values[key] = (
            _build(kinds[key], value or {}, where, f"{full}.") if nested else _checked(value, kinds[key], full)
        )
    return cls(**values)


def _checked(value: Any, kind: Any, name: str) -> Any:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value in options:
            return value
        raise _wrong(name, value, f"one of {', '.join(map(str, options))}")
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return _checked(value, option, name)
            except InvalidRequest:
                continue
        raise _wrong(name, value, " or ".join(getattr(o, "__name__", str(o)) for o in options))
    if origin is list:
        (item,) = options
        values = value if isinstance(value, list) else [value]  # one is enough
        return [_checked(one, item, name) for one in values]
    if kind is float and isinstance(value, str):
        try:
            value = float(value)  # YAML 1.1 reads 1e-4 as text
        except ValueError:
            raise _wrong(name, value, "a number") from None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise _wrong(name, value, {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind])
    if kind in (int, float) and value < 0:
        raise _wrong(name, value, "0 or more")
    return value


def _wrong(name: str, value: Any, due: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name} is {str(value)[:60]!r}; {due} was due.",
        hint=f"Correct {name}.",
        hint_zh=f"请修正 {name}。",
        param=name,
    )
