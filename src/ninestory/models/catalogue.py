"""The catalogue: one TOML a system in `ninestory/catalog`, read strictly. Data for the list, the page, plans and doctor."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any, TypeVar

from ninestory.core.errors import Damaged, NotFound
from ninestory.core.strict_table import TableError, read_table
from ninestory.models.shapes import ModelShape

T = TypeVar("T")


@dataclass(frozen=True)
class Text:
    """The same words in both languages."""

    en: str
    zh: str


@dataclass(frozen=True)
class Variant:
    """One published form of a system.

    `nbytes` is its size on disk as the publisher states it, rounded; 0 where none is stated. `hf` and `ms` are the
    ids on Hugging Face and ModelScope.
    """

    name: str
    format: str
    parameters: float = 0.0  # in 10⁹
    nbytes: int = 0
    quant: str = ""
    hf: str = ""
    ms: str = ""
    licence: str = ""
    shape: ModelShape | None = None


@dataclass(frozen=True)
class Pitfall:
    """What goes wrong, and the cure.

    `sign` is what `doctor` looks for in a directory, when it can be seen there: a file name pattern, a key of
    config.json, or key=value.
    """

    problem: Text
    cure: Text
    sign: str = ""


@dataclass(frozen=True)
class System:
    """One of the tower's systems.

    `family` is the `model_type` of its checkpoints; some releases are of `other_families`.
    `generation` and `tuning` hold the original's defaults under the field's usual names.
    """

    name: str
    floor: int
    family: str
    title: Text
    description: Text
    licence: str
    other_families: list[str] = field(default_factory=list)
    context: int = 0
    template: str = ""
    formats: list[str] = field(default_factory=list)
    source: str = ""
    generation: dict[str, Any] = field(default_factory=dict)
    tuning: dict[str, Any] = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=list)
    pitfalls: list[Pitfall] = field(default_factory=list)


@lru_cache(maxsize=1)
def load_catalogue() -> dict[str, System]:
    """name → system, in the order of floors.

    Raises:
        Damaged: a file of the catalogue misses a key, has an unknown one or a value of the wrong type.
    """
    systems = []
    for file in sorted(resources.files("ninestory.catalog").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            data = tomllib.loads(file.read_text(encoding="utf-8"))
            system = build(System, data, file.name)
            if f"{system.name}.toml" != file.name:
                raise Damaged(f"catalog/{file.name} names the system {system.name!r}.")
            systems.append(system)
    return {s.name: s for s in sorted(systems, key=lambda s: (s.floor, s.name))}


def find(name: str) -> System:
    """A system by its name.

    Raises:
        NotFound: with the nearest names.
    """
    catalogue = load_catalogue()
    if name.lower() in catalogue:
        return catalogue[name.lower()]
    near = difflib.get_close_matches(name.lower(), catalogue, n=3)
    raise NotFound(
        f"The catalogue has no system {name!r}.",
        hint=f"Did you mean {' or '.join(near)}?"
        if near
        else "'ninestory list' shows all of them; a path starts with ./",
        hint_zh=f"是否想写 {' 或 '.join(near)}？" if near else "运行 ninestory list 查看全部；路径请以 ./ 开头。",
        param="model",
        code="unknown_system",
    )


def build(cls: type[T], table: Any, where: str) -> T:
    """Build a dataclass from a TOML table of the catalogue.

    Raises:
        Damaged: a key is unknown or missing, or a value is of another type.
    """
    try:
        return read_table(cls, table)
    except TableError as error:
        raise Damaged(f"catalog/{where}: {error}.") from error
