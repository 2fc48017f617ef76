"""A knowledge base's folder: its settings and its files, in a small database of its own. No vectors here.

kb/vs_…/  kb.db       settings, the files and what became of each
          documents/  copies of what was added (synced folders are referenced)
          chunks-1/   the table of passages (`table.py`)
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from ninestory.core.errors import Conflict, InvalidRequest, NotFound
from ninestory.core.paths import Home, inside
from ninestory.core.reserve import DiskReserve
from ninestory.core.state import State
from ninestory.floors.retrieval.prompts import PROMPTS, Language

DEFAULT_MODEL = "starter:multilingual-e5-small"
_ID = re.compile(r"vs_[0-9a-f]{24}")
_NAME_CHARACTERS = 200
_HALF_MADE_SECONDS = 3600.0

SCHEMA = (
    """
    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE files (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        path TEXT NOT NULL,
        folder TEXT NOT NULL DEFAULT '',
        sha256 TEXT NOT NULL DEFAULT '',
        bytes INTEGER NOT NULL DEFAULT 0,
        mtime REAL NOT NULL DEFAULT 0,
        attributes TEXT NOT NULL DEFAULT '{}',
        options TEXT NOT NULL DEFAULT '{}',
        batch TEXT NOT NULL DEFAULT '',
        status TEXT NOT NULL,
        error TEXT,
        notes TEXT NOT NULL DEFAULT '[]',
        chunks INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL
    ) STRICT;
    CREATE INDEX files_by_name ON files (folder, name);
    """,
    """
    CREATE TABLE feedback (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        question TEXT NOT NULL,
        answer TEXT NOT NULL,
        good INTEGER NOT NULL,
        file TEXT NOT NULL DEFAULT '',
        passage TEXT NOT NULL DEFAULT '',
        model TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL
    ) STRICT;
    """,
)

Thresholds = dict[Language, float]  # the cosine of "not in the documents" by the question's language
Status = Literal["pending", "written", "indexed", "failed", "cancelled", "removed"]


@dataclass(frozen=True)
class KnowledgeFile:
    """One file of a knowledge base.

    Attributes:
        name: shown in citations; of a synced folder the path below it.
        folder: the synced folder it belongs to, or "".
        attributes: the user's own, for filters.
        options: how to cut it: max_tokens and overlap_tokens.
        batch: the id of the upload it came with.
        status: pending = waits for the ingest; written = in the table, and found once it is published (indexed);
            removed = its passages are to go.
    """

    id: str
    name: str
    path: Path
    folder: str
    sha256: str
    bytes: int
    mtime: float
    status: Status
    chunks: int
    created_at: float
    attributes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)
    batch: str = ""
    error: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Published:
    """The table and version that readers are pinned to, and the model its vectors are of."""

    table: str
    version: int
    model: str
    rows: int


class KnowledgeBase:
    """One knowledge base, opened. Cheap: the table of passages is opened by who reads or writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self._state = State(folder / "kb.db")
        try:
            self._state.migrate("knowledge_base", SCHEMA)
        except BaseException:
            self._state.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its file descriptors back; needed, since the garbage collector comes when it likes."""
        self._state.close()

    # --- settings -----------------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """A setting: name, model, created_at, metadata, published, thresholds, probe …"""
        rows = self._state.execute("SELECT value FROM settings WHERE key = ?", (key,))
        return json.loads(rows[0]["value"]) if rows else default

    def put(self, **values: Any) -> None:
        """Set several settings at once."""
        with self._state.transaction():
            for key, value in values.items():
                self._state.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))

    def drop(self, key: str) -> None:
        """Forget a setting."""
        self._state.execute("DELETE FROM settings WHERE key = ?", (key,))

    @property
    def name(self) -> str:
        return str(self.get("name", ""))

    @property
    def model(self) -> str:
        """The embedding model of the next ingest. A table never mixes two: another model begins another table."""
        return str(self.get("model"))

    @property
    def thresholds(self) -> Thresholds | None:
        """As the last ingest calibrated them; one of an older version had a single one for every language."""
        known, single = self.get("thresholds"), self.get("threshold")
        return known or (None if single is None else dict.fromkeys(PROMPTS, single))

    @property
    def table_path(self) -> Path:
        """The table that ingests write to."""
        return self.folder / str(self.get("table", "chunks-1"))

    @property
    def published(self) -> Published | None:
        """What readers use; None before the first ingest."""
        found = self.get("published")
        return Published(**found) if found else None

    def publish(self, version: int, rows: int) -> None:
        """Make a version of the written table what readers see, and delete the tables before it."""
        self.put(published={"table": self.table_path.name, "version": version, "model": self.model, "rows": rows})
        for path in self.folder.glob("chunks-*"):
            if path != self.table_path:
                shutil.rmtree(path, ignore_errors=True)

    def begin_table(self, model: str) -> None:
        """Embed everything again, with `model`, into a new table; readers stay on the old one until it is whole."""
        number = int(self.table_path.name.rsplit("-", 1)[1])
        with self._state.transaction():
            self.put(table=f"chunks-{number + 1}", model=model, probe=None)
            self._state.execute("UPDATE files SET status = 'pending' WHERE status IN ('written', 'indexed', 'failed')")

    def unfinished(self) -> bool:
        """Whether an ingest has anything to do."""
        rows = self._state.execute("SELECT 1 FROM files WHERE status IN ('pending', 'written', 'removed') LIMIT 1")
        return bool(rows) or self.published is None

    def mark_published(self) -> None:
        """What was written can be found now."""
        self._state.execute("UPDATE files SET status = 'indexed' WHERE status = 'written'")

    def settle(self) -> None:
        """Bring everything into the one database file, for a copy of it."""
        self._state.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def restore(
        self, settings: dict[str, Any], files: Sequence[dict[str, Any]], feedback: Sequence[dict[str, Any]]
    ) -> None:
        """Fill an empty knowledge base with checked rows of an exported one; each file is a copy in `documents`."""
        with self._state.transaction():
            self.put(**settings)
            for file in files:
                columns = {key: json.dumps(file[key]) for key in ("attributes", "options", "notes")}
                error = json.dumps(file["error"]) if file["error"] else None
                self._insert(
                    "files", {**file, **columns, "error": error, "path": str(self.documents / file["id"]), "folder": ""}
                )
            for row in feedback:
                self._insert("feedback", row)

    def _insert(self, table: Literal["files", "feedback"], row: dict[str, Any]) -> None:
        marks = ", ".join(f":{column}" for column in row)
        self._state.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row)

    def relocate_copies(self) -> None:
        """After the folder was moved: every file is the copy in `documents` below it."""
        for file in self.files():
            self._state.execute("UPDATE files SET path = ? WHERE id = ?", (str(self.documents / file.id), file.id))

    @property
    def documents(self) -> Path:
        return self.folder / "documents"

    @property
    def lock_path(self) -> Path:
        return self.folder / "writer.lock"

    # --- what people thought of answers --------------------------------------------------------------------------

    def add_feedback(
        self, question: str, answer: str, *, good: bool, file: str = "", passage: str = "", model: str = ""
    ) -> dict[str, Any]:
        """Keep a thumb: up names the file (and text) that the answer rests on, for `kb evaluate`."""
        values = (question, answer, int(good), file, passage, model, time.time())
        self._state.execute(
            "INSERT INTO feedback (question, answer, good, file, passage, model, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        return self.feedback(1)[0]

    def feedback(self, most: int = 1000) -> list[dict[str, Any]]:
        """Thumbs, newest first."""
        rows = self._state.execute("SELECT * FROM feedback ORDER BY number DESC LIMIT ?", (most,))
        return [{**dict(row), "good": bool(row["good"])} for row in rows]

    # --- files --------------------------------------------------------------------------------------------------

    def files(self, status: Status | None = None, batch: str | None = None) -> list[KnowledgeFile]:
        """The files, oldest first; those to be removed only when asked for."""
        rows = self._state.execute(
            "SELECT * FROM files WHERE (:batch IS NULL OR batch = :batch) AND "
            "CASE WHEN :status IS NULL THEN status != 'removed' ELSE status = :status END ORDER BY number",
            {"status": status, "batch": batch},
        )
        return [_file(row) for row in rows]

    def file(self, file_id: str) -> KnowledgeFile:
        """Raises NotFound."""
        rows = self._state.execute("SELECT * FROM files WHERE id = ? AND status != 'removed'", (file_id,))
        if not rows:
            raise NotFound(
                f"{self.name or self.id} has no file {file_id[:80]!r}.",
                hint=f"'ninestory kb show {self.name or self.id}' lists its files.",
                hint_zh=f"运行 ninestory kb show {self.name or self.id} 可列出文件。",
                code="file_not_found",
            )
        return _file(rows[0])

    def counts(self) -> dict[str, int]:
        """How many files have each status, and `bytes` and `chunks` in all."""
        rows = self._state.execute(
            "SELECT status, COUNT(*) AS n, SUM(bytes) AS size, SUM(chunks) AS chunks FROM files GROUP BY status"
        )
        counts = {row["status"]: row["n"] for row in rows}
        kept = [row for row in rows if row["status"] != "removed"]
        return counts | {"bytes": sum(r["size"] for r in kept), "chunks": sum(r["chunks"] for r in kept)}

    def register(
        self,
        name: str,
        path: Path,
        *,
        file_id: str = "",
        folder: str = "",
        sha256: str = "",
        attributes: dict[str, Any] | None = None,
        options: dict[str, int] | None = None,
        batch: str = "",
    ) -> str:
        """Note a file for the next ingest; one of the same folder and name (or id) is replaced. Returns its id."""
        stat = path.stat()
        known = self._state.execute(
            "SELECT id FROM files WHERE id = :id OR (folder = :folder AND name = :name AND :id = '')",
            {"id": file_id, "folder": folder, "name": name},
        )
        file_id = known[0]["id"] if known else file_id or f"file-{secrets.token_hex(12)}"
        values = (name, str(path), folder, sha256, stat.st_size, stat.st_mtime)
        more = (json.dumps(attributes or {}), json.dumps(options or {}), batch)
        if known:
            self._state.execute(
                "UPDATE files SET name = ?, path = ?, folder = ?, sha256 = ?, bytes = ?, mtime = ?, attributes = ?, "
                "options = ?, batch = ?, status = 'pending', error = NULL WHERE id = ?",
                (*values, *more, file_id),
            )
        else:
            self._state.execute(
                "INSERT INTO files (name, path, folder, sha256, bytes, mtime, attributes, options, batch, id, status, "
                "created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)",
                (*values, *more, file_id, time.time()),
            )
        return file_id

    def mark(
        self,
        file_id: str,
        status: Status,
        *,
        error: dict[str, Any] | None = None,
        chunks: int = 0,
        notes: Sequence[str] = (),
    ) -> None:
        """Write what became of a file."""
        self._state.execute(
            "UPDATE files SET status = ?, error = ?, chunks = ?, notes = ? WHERE id = ?",
            (status, json.dumps(error) if error else None, chunks, json.dumps(list(notes)), file_id),
        )

    def set_attributes(self, file_id: str, attributes: dict[str, Any]) -> None:
        self.file(file_id)
        self._state.execute("UPDATE files SET attributes = ? WHERE id = ?", (json.dumps(attributes), file_id))

    def touch(self, file_id: str, mtime: float) -> None:
        """The file was written again with the same content."""
        self._state.execute("UPDATE files SET mtime = ? WHERE id = ?", (mtime, file_id))

    def remove_file(self, file_id: str) -> None:
        """The file is gone from every answer at once; the next ingest takes its passages out. Raises NotFound."""
        self.file(file_id)
        self.mark(file_id, "removed")
        inside(self.documents, file_id).unlink(missing_ok=True)

    def forget(self, file_ids: Iterable[str]) -> None:
        """Drop the rows of removed files, and the copies made of them."""
        for file_id in file_ids:
            self._state.execute("DELETE FROM files WHERE id = ?", (file_id,))
            inside(self.documents, file_id).unlink(missing_ok=True)


def create(
    home: Home, name: str, *, model: str = DEFAULT_MODEL, metadata: dict[str, str] | None = None
) -> KnowledgeBase:
    """Make an empty knowledge base. Names need not be unique here; the command line asks for that.

    Raises:
        InvalidRequest: the name is too long or holds control characters.
    """
    if len(name) > _NAME_CHARACTERS or not name.isprintable():
        raise InvalidRequest(
            f"{name[:80]!r} is no name for a knowledge base.",
            hint=f"Use at most {_NAME_CHARACTERS} printable characters.",
            hint_zh=f"请使用不超过 {_NAME_CHARACTERS} 个可打印字符。",
            param="name",
        )
    home.kb.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.run_dir.mkdir(exist_ok=True, mode=0o700)
    DiskReserve(home.reserve).make()
    kb_id = f"vs_{secrets.token_hex(12)}"
    sweep(home)
    started = home.kb / f".new-{kb_id}"
    base = KnowledgeBase(started)
    base.put(name=name, model=model, metadata=metadata or {}, created_at=time.time())
    base.close()
    started.rename(home.kb / kb_id)
    return KnowledgeBase(home.kb / kb_id)


def open_base(home: Home, name: str) -> KnowledgeBase:
    """A knowledge base by id or name. An id goes straight to its folder; for a name every base is looked at.

    Raises:
        NotFound: no such one. Conflict: several have that name; the message lists their ids.
    """
    if _ID.fullmatch(name):
        return open_by_id(home, name)
    ids = [base.id for base in each_base(home) if base.name == name]
    if len(ids) > 1:
        raise Conflict(
            f"{len(ids)} knowledge bases are named {name!r}: {', '.join(ids)}.",
            hint="Use the id.",
            hint_zh="请使用 id。",
        )
    if not ids:
        raise _no_base(name)
    return open_by_id(home, ids[0])


def open_by_id(home: Home, base_id: str) -> KnowledgeBase:
    """A knowledge base by its id; no other base is touched. Raises NotFound."""
    return KnowledgeBase(_folder_of(home, base_id))


def _folder_of(home: Home, base_id: str) -> Path:
    if not _ID.fullmatch(base_id) or not (home.kb / base_id / "kb.db").is_file():
        raise _no_base(base_id)
    return home.kb / base_id


def _no_base(name: str) -> NotFound:
    return NotFound(
        f"There is no knowledge base {name[:80]!r}.",
        hint=f"'ninestory kb ls' lists them; 'ninestory kb create {name[:40]}' makes one.",
        hint_zh=f"ninestory kb ls 可列出全部；ninestory kb create {name[:40]} 可新建。",
        code="knowledge_base_not_found",
    )


def check_one_model(bases: Sequence[KnowledgeBase]) -> str:
    """The embedding model that all of them were embedded with.

    Raises:
        InvalidRequest: they were not.
    """
    models = sorted({base.published.model if base.published else base.model for base in bases})
    if len(models) != 1:
        raise InvalidRequest(
            f"These knowledge bases are of different embedding models: {', '.join(models)}.",
            hint="Search them one by one.",
            hint_zh="请逐个检索。",
            param="vector_store_ids",
        )
    return models[0]


def lowest_thresholds(bases: Sequence[KnowledgeBase]) -> Thresholds | None:
    """The cosines of "not in the documents" that hold for all of them; None when one has none."""
    found = [base.thresholds for base in bases]
    known = [thresholds for thresholds in found if thresholds is not None]
    if len(known) < len(found):
        return None
    return {language: min(thresholds[language] for thresholds in known) for language in PROMPTS}


def base_ids(home: Home) -> list[str]:
    """The ids of all knowledge bases, oldest first."""
    return [base_id for _, base_id in sorted((base.get("created_at", 0.0), base.id) for base in each_base(home))]


def each_base(home: Home) -> Iterator[KnowledgeBase]:
    """All knowledge bases in no order, one open at a time: each is closed when the next is asked for."""
    for folder in list(home.kb.iterdir()) if home.kb.is_dir() else ():
        if _ID.fullmatch(folder.name) and (folder / "kb.db").is_file():
            with KnowledgeBase(folder) as base:
                yield base


def remove_base(base: KnowledgeBase) -> None:
    """Delete a knowledge base with its copies; files of synced folders stay."""
    base.close()
    _remove_folder(base.folder)


def remove_by_id(home: Home, base_id: str) -> None:
    """As `remove_base`, without opening it: works on a full disk, and on a damaged one. Raises NotFound."""
    _remove_folder(_folder_of(home, base_id))


def sweep(home: Home) -> None:
    """Remove what killed processes left of bases half made or half deleted; a server does it at its start.

    Those being made by somebody else now are young, and stay.
    """
    for folder in home.kb.glob(".*-vs_*") if home.kb.is_dir() else ():
        made = folder.name.startswith(".new-") and time.time() - folder.stat().st_mtime > _HALF_MADE_SECONDS
        if made or folder.name.startswith(".gone-"):
            shutil.rmtree(folder, ignore_errors=True)


def _remove_folder(folder: Path) -> None:
    gone = folder.with_name(f".gone-{folder.name}")
    folder.rename(gone)
    shutil.rmtree(gone)


def _file(row: sqlite3.Row) -> KnowledgeFile:
    return KnowledgeFile(
        id=row["id"],
        name=row["name"],
        path=Path(row["path"]),
        folder=row["folder"],
        sha256=row["sha256"],
        bytes=row["bytes"],
        mtime=row["mtime"],
        status=row["status"],
        chunks=row["chunks"],
        created_at=row["created_at"],
        attributes=json.loads(row["attributes"]),
        options=json.loads(row["options"]),
        batch=row["batch"],
        error=json.loads(row["error"]) if row["error"] else None,
        notes=json.loads(row["notes"]),
    )
