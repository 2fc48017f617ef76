"""Floors are used through their public face, `floors/<name>/__init__.py`."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ninestory.floors.table import FLOORS, load_part

SOURCE = Path(__file__).parents[2] / "src" / "ninestory"
FACES = [name for name in FLOORS if (SOURCE / "floors" / name).is_dir()]
# Who uses floors from outside. `floors/agents` and `floors/verticals` are made of other floors.
USERS = ("library.py", "__init__.py", "cli", "serving", "webui", "floors/agents", "floors/verticals")


def files_of(user: str) -> Iterator[Path]:
    path = SOURCE / user
    yield from [path] if path.is_file() else path.rglob("*.py")


def imports_of(file: Path) -> Iterator[tuple[int, str, str]]:
    """Line, module and name of every `from ninestory.floors.… import …`, and of every `import ninestory.floors.…`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ninestory.floors."):
            for alias in node.names:
                yield node.lineno, node.module or "", alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("ninestory.floors."):
                    yield node.lineno, alias.name, ""


@pytest.mark.parametrize("user", USERS)
def test_floors_are_used_through_their_public_face(user: str) -> None:
    inner = []
    for file in files_of(user):
        for line, module, name in imports_of(file):
            floor, _, rest = module.removeprefix("ninestory.floors.").partition(".")
            if floor in FACES and floor not in user and (rest or name not in importlib.import_module(module).__all__):
                inner.append(f"{file.relative_to(SOURCE)}:{line}: {module} {name}")
    assert not inner, "\n".join(inner)


@pytest.mark.parametrize("name", FACES)
def test_every_public_name_is_there(name: str) -> None:
    face = importlib.import_module(f"ninestory.floors.{name}")
    modules = {path.stem for path in (SOURCE / "floors" / name).iterdir()}
    assert not modules & set(face.__all__), "a module would stand in the name's place"
    for public in face.__all__:
        assert getattr(face, public) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = face.nothing


def test_the_table_names_what_exists() -> None:
    assert [floor.number for floor in FLOORS.values()] == list(range(1, 10))
    for floor in FLOORS.values():
        for reference in filter(None, (floor.routes, floor.recipes)):
            assert load_part(reference)
        for module, text in floor.verbs.values():
            assert importlib.import_module(f"ninestory.cli.{floor.name}.{module}").app
            assert text.en and text.zh
        if floor.page:
            folder = SOURCE / "webui" / "static" / "floors" / floor.page
            assert all((folder / file).is_file() for file in ("index.js", "i18n.js", "style.css"))
