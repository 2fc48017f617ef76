"""Presets: a name for a model, a system prompt and settings. Rows of the state database."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from ninestory.core.errors import Conflict
from ninestory.core.state import State
from ninestory.serving.stores.revisions import check_revision, missing

SCHEMA = (
    """
    CREATE TABLE presets (
        id TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        name TEXT NOT NULL,
        floor TEXT NOT NULL,
        model TEXT,
        system TEXT NOT NULL,
        settings TEXT NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        UNIQUE (floor, name)
    ) STRICT;
    """,
)


class PresetStore:
    """All methods take and give plain JSON data in the shape of docs/api.md."""

    def __init__(self, state: State) -> None:
        self.state = state
        state.migrate("presets", SCHEMA)

    def list(self, floor: str | None = None) -> Sequence[dict[str, Any]]:
        """By name."""
        rows = self.state.execute(
            "SELECT * FROM presets WHERE (:floor IS NULL OR floor = :floor) ORDER BY floor, name", {"floor": floor}
        )
        return [_preset(row) for row in rows]

    def get(self, preset_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        rows = self.state.execute("SELECT * FROM presets WHERE id = ?", (preset_id,))
        if not rows:
            raise missing("preset", "预设", preset_id)
        return _preset(rows[0])

    def create(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Raises Conflict: the name is taken on that floor."""
        now = time.time()
        preset = {
            "id": f"preset_{secrets.token_hex(12)}",
            "floor": "chat",
            "model": None,
            "system": "",
            "settings": {},
            "created_at": now,
            "updated_at": now,
            **fields,
        }
        self._write(
            "INSERT INTO presets VALUES (:id, 1, :name, :floor, :model, :system, :settings, :created_at, :updated_at)",
            preset,
        )
        return self.get(preset["id"])

    def update(self, preset_id: str, revision: int, changes: dict[str, Any]) -> dict[str, Any]:
        """Raises NotFound, Conflict: stale revision, or the name is taken."""
        with self.state.transaction():
            preset = self.get(preset_id)
            check_revision("preset", preset["revision"], revision)
            self._write(
                "UPDATE presets SET revision = revision + 1, name = :name, model = :model, system = :system, "
                "settings = :settings, updated_at = :updated_at WHERE id = :id",
                {**preset, **changes, "updated_at": time.time()},
            )
        return self.get(preset_id)

    def delete(self, preset_id: str) -> None:
        """Raises NotFound."""
        self.get(preset_id)
        self.state.execute("DELETE FROM presets WHERE id = ?", (preset_id,))

    def _write(self, sql: str, preset: dict[str, Any]) -> None:
        try:
            self.state.execute(sql, {**preset, "settings": json.dumps(preset["settings"], ensure_ascii=False)})
        except sqlite3.IntegrityError as error:
            raise Conflict(
                f"There is a preset named {preset['name']!r} on this floor already.",
                hint="Choose another name, or change that preset.",
                hint_zh="请换一个名称，或修改已有的预设。",
                param="name",
                code="name_taken",
            ) from error


def _preset(row: sqlite3.Row) -> dict[str, Any]:
    return {"object": "preset", **dict(row), "settings": json.loads(row["settings"])}
