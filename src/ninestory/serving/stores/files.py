"""Uploaded files: the content under an id of ours in the home's `files/`, everything else a row.

A name that a client sends never becomes a name on the disk.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ninestory.core.errors import DiskFull, InvalidRequest, NotFound, TooLarge
from ninestory.core.paths import atomic_write, inside
from ninestory.core.state import State

COPY_BYTES = 1 << 20
MAX_NAME_BYTES = 255

SCHEMA = (
    """
    CREATE TABLE files (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        filename TEXT NOT NULL,
        purpose TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL
    ) STRICT;
    """,
)

_FILE_ID = re.compile(r"file-[0-9a-f]{24}")


class FileStore:
    """The files of a home."""

    def __init__(self, state: State, directory: Path) -> None:
        self.state = state
        self.directory = directory
        state.migrate("files", SCHEMA)

    def put(
        self, source: BinaryIO, filename: str, purpose: str, *, max_bytes: int, expires_after: float | None = None
    ) -> dict[str, Any]:
        """Copy `source` whole or not at all.

        Args:
            max_bytes: the largest size taken.
            expires_after: seconds until it is deleted; None = never.

        Raises:
            TooLarge, DiskFull, InvalidRequest: nothing is left of a name after sanitising.
        """
        name = sanitised_name(filename)
        file_id = f"file-{secrets.token_hex(12)}"
        now = time.time()
        size = 0
        with atomic_write(self.directory / file_id) as target:
            while block := source.read(COPY_BYTES):
                size += len(block)
                if size > max_bytes:
                    raise TooLarge(
                        f"The file {name!r} is larger than {max_bytes / 1e6:g} MB.",
                        hint="Send it in parts, or raise serve.max_upload_mb.",
                        hint_zh="请分开上传，或调高 serve.max_upload_mb。",
                        param="file",
                    )
                target.write(block)
        try:
            self.state.execute(
                "INSERT INTO files (id, filename, purpose, bytes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
                (file_id, name, purpose, size, now, None if expires_after is None else now + expires_after),
            )
        except BaseException:
            (self.directory / file_id).unlink(missing_ok=True)
            raise
        return self.get(file_id)

    def list(
        self, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> Sequence[dict[str, Any]]:
        self._delete_expired()
        order, sign = ("DESC", "<") if newest_first else ("ASC", ">")
        rows = self.state.execute(
            f"SELECT * FROM files WHERE (:purpose IS NULL OR purpose = :purpose) AND (:after IS NULL OR number {sign} "
            f"(SELECT number FROM files WHERE id = :after)) ORDER BY number {order} LIMIT :limit",
            {"purpose": purpose, "after": after, "limit": limit},
        )
        return [_file(row) for row in rows]

    def get(self, file_id: str) -> dict[str, Any]:
        """The file as OpenAI shows it. Raises NotFound."""
        self._delete_expired()
        rows = self.state.execute("SELECT * FROM files WHERE id = ?", (file_id,))
        if not rows:
            raise _missing(file_id)
        return _file(rows[0])

    def path(self, file_id: str) -> Path:
        """Where its content is. Raises NotFound."""
        self.get(file_id)
        path = inside(self.directory, file_id)
        if not path.is_file():
            raise _missing(file_id)
        return path

    def delete(self, file_id: str) -> None:
        """On a full disk the content goes first, which makes room for the row's deletion. Raises NotFound."""
        content = inside(self.directory, file_id)
        try:
            self._delete_row(file_id)
        except DiskFull:
            content.unlink(missing_ok=True)
            self._delete_row(file_id)
        content.unlink(missing_ok=True)

    def _delete_row(self, file_id: str) -> None:
        if not self.state.execute("DELETE FROM files WHERE id = ? RETURNING id", (file_id,)):
            raise _missing(file_id)

    def sweep(self) -> None:
        """Remove what a killed server left: contents without a row. Only while no upload runs (server start)."""
        if not self.directory.is_dir():
            return
        known = {row["id"] for row in self.state.execute("SELECT id FROM files")}
        for path in self.directory.iterdir():
            left_part = path.name.startswith(".file-") and path.name.endswith(".part")
            if left_part or (_FILE_ID.fullmatch(path.name) and path.name not in known):
                path.unlink()

    def _delete_expired(self) -> None:
        for row in self.state.execute("DELETE FROM files WHERE expires_at < ? RETURNING id", (time.time(),)):
            inside(self.directory, row["id"]).unlink(missing_ok=True)


def sanitised_name(filename: str) -> str:
    """The last part of a path in either notation, without control characters, at most 255 bytes.

    >>> sanitised_name("../../etc/passwd"), sanitised_name("C:\\\\docs\\\\报告.pdf")
    ('passwd', '报告.pdf')

    Raises:
        InvalidRequest: nothing is left.
    """
    name = re.split(r"[\\/]", filename)[-1]
    name = "".join(char for char in name if char.isprintable()).strip(" .")
    while len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        name = name[1:]  # the end holds the file's type
    if not name or any(0xD800 <= ord(char) < 0xE000 for char in name):
        raise InvalidRequest(
            f"{filename[:80]!r} is not a file name.",
            hint="Send a plain name such as notes.txt.",
            hint_zh="请使用普通的文件名，例如 notes.txt。",
            param="file",
        )
    return name


def _file(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "object": "file",
        "bytes": row["bytes"],
        "created_at": int(row["created_at"]),
        "expires_at": None if row["expires_at"] is None else int(row["expires_at"]),
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": "processed",
    }


def _missing(file_id: str) -> NotFound:
    return NotFound(
        f"There is no file {file_id[:80]!r}.",
        hint="GET /v1/files lists them; it may have been deleted or has expired.",
        hint_zh="GET /v1/files 列出全部文件；该文件可能已删除或过期。",
        code="file_not_found",
    )
