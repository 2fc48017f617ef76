"""The kb.db of an exported knowledge base, which a stranger may have written: read as data, never opened for use.

A database file carries code: triggers that undo what an import corrects, views that never end, settings that name
other folders. So its rows are checked one by one and copied into a database that this program made.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from ninestory.core.errors import Damaged
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
from ninestory.floors.retrieval.prompts import Language

FILE_ID = r"[A-Za-z0-9_-]{1,64}"
TABLE_NAME = r"chunks-[0-9]{1,9}"
_MAX_VALUE_BYTES = 16 << 20
_MAX_ROWS = 2_000_000
_MAX_STEPS, _STEPS_A_LOOK = 20_000, 1_000_000  # of SQLite's machine: about a minute
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Name = Annotated[str, Field(max_length=4096)]
_Attribute = str | int | float | bool


class _Row(BaseModel):
    model_config = ConfigDict(strict=True)


class _Published(_Row):
    table: Annotated[str, Field(pattern=f"^{TABLE_NAME}$")]
    version: Annotated[int, Field(ge=0)]
    model: _Name
    rows: Annotated[int, Field(ge=0)]


class _Settings(_Row):
    """The settings that are taken over. `folders` is not: an archive does not choose what is read of this machine."""

    name: Annotated[str, Field(max_length=200)] | None = None
    model: _Name
    metadata: dict[str, Any] | None = {}
    description: str | None = ""
    created_at: _Number = 0
    table: Annotated[str, Field(pattern=f"^{TABLE_NAME}$")] = "chunks-1"
    published: _Published | None = None
    thresholds: dict[Language, _Number] | None = None
    threshold: _Number | None = None  # of an older version: one for every language
    probe: Annotated[list[_Number], Field(max_length=1 << 16)] | None = None


class _File(_Row):
    id: Annotated[str, Field(pattern=f"^{FILE_ID}$")]
    name: _Name
    sha256: _Name = ""
    bytes: Annotated[int, Field(ge=0)] = 0
    mtime: _Number = 0
    attributes: Json[dict[str, _Attribute]] = {}
    options: Json[dict[str, int]] = {}
    batch: _Name = ""
    status: Literal["pending", "written", "indexed", "failed", "cancelled", "removed"]
    error: Json[dict[str, Any]] | None = None
    notes: Json[list[str]] = []
    chunks: Annotated[int, Field(ge=0)] = 0
    created_at: _Number


class _Feedback(_Row):
    question: str
    answer: str
    good: Literal[0, 1]
    file: _Name = ""
    passage: str = ""
    model: _Name = ""
    created_at: _Number


def restore(exported: Path, base: KnowledgeBase) -> None:
    """Copy settings, files and feedback of an exported database into an empty knowledge base.

    Every file's path becomes the copy below `base.documents`, whatever the database says, and no folder is followed.

    Raises:
        Damaged: it is no such database, or holds a value that an export never writes.
    """
    address = f"{exported.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            _restrict(database)
            _check_tables(database)
            settings = _settings(database)
            files = [_File(**row).model_dump() for row in _rows(database, "files", _File)]
            feedback = [_Feedback(**row).model_dump() for row in _rows(database, "feedback", _Feedback)]
    except (sqlite3.Error, ValidationError, ValueError, RecursionError) as error:
        raise Damaged(
            f"The archive's kb.db is no database of an exported knowledge base: {_first_line(error)}.",
            hint="Export the knowledge base again with 'ninestory kb export'.",
            hint_zh="请用 ninestory kb export 重新导出。",
            code="damaged_archive",
        ) from error
    base.restore(settings, files, feedback)


def _restrict(database: sqlite3.Connection) -> None:
    """Bound what reading may cost: length of a value, steps of a query; functions in a schema are not trusted."""
    looks = 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return int(looks > _MAX_STEPS)  # any other value than 0 ends the query

    database.row_factory = sqlite3.Row
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA cell_size_check = ON")
    database.set_progress_handler(look, _STEPS_A_LOOK // 1000)


def _check_tables(database: sqlite3.Connection) -> None:
    """Raises ValueError: a name that is read is a view or a virtual table, or is missing."""
    query = "SELECT name, type, sql FROM sqlite_master WHERE name IN ('settings', 'files', 'feedback')"
    found = {row["name"]: row for row in database.execute(query)}
    for name, row in found.items():
        if row["type"] != "table" or "VIRTUAL" in str(row["sql"]).upper():
            raise ValueError(f"{name} is a {row['type']}; expected a plain table")
    if missing := {"settings", "files"} - found.keys():
        raise ValueError(f"the table {missing.pop()} is missing")


def _settings(database: sqlite3.Connection) -> dict[str, Any]:
    wanted = tuple(_Settings.model_fields)
    marks = ", ".join("?" * len(wanted))
    rows = database.execute(f"SELECT key, value FROM settings WHERE key IN ({marks})", wanted).fetchmany(len(wanted))
    return _Settings(**{row["key"]: json.loads(row["value"]) for row in rows}).model_dump()


def _rows(database: sqlite3.Connection, table: str, kind: type[_Row]) -> list[dict[str, Any]]:
    """The columns of a table that are known; what an older version did not write keeps its default."""
    there = {row["name"] for row in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}
    columns = [name for name in kind.model_fields if name in there]
    if not columns:
        return []
    rows = database.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY number").fetchmany(_MAX_ROWS + 1)
    if len(rows) > _MAX_ROWS:
        raise ValueError(f"{table} has more than {_MAX_ROWS} rows")
    return [dict(row) for row in rows]


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
