"""The state database of a home: one SQLite file in WAL mode, opened by the gateway, by job processes and by the CLI.

It knows how to open, migrate, lock and name faults; it knows no table. The module that owns a table keeps its SQL
as an ordered list of scripts and hands it to `State.migrate` under its own name; scripts are only ever appended.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ninestory.core.errors import Conflict, Damaged, DiskFull, NinestoryError, Unavailable
from ninestory.core.paths import Home

BUSY_TIMEOUT_SECONDS = 10.0

_VERSIONS = "CREATE TABLE IF NOT EXISTS schema_versions (owner TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT"


class State:
    """One connection, shared by this process's threads under a lock (a statement takes some 10 µs).

    Statements commit by themselves; `transaction` groups several.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the database at `path`.

        Raises:
            Damaged: the file is not a database or fails SQLite's own check.
            DiskFull: there is no room to create it.
        """
        self.path = path
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _named_faults(path):
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            try:
                for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "cache_size=-1024"):
                    self._connection.execute(f"PRAGMA {pragma}")
                self._connection.execute(_VERSIONS)
            except BaseException:
                self._connection.close()
                raise
        path.chmod(0o600)

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[sqlite3.Row]:
        """Run one statement and return its rows (of RETURNING too).

        Raises:
            DiskFull, Damaged, Unavailable: as SQLite's fault means. `sqlite3.IntegrityError` passes through: what a
            violated constraint means is known to the table's owner.
        """
        with self._lock, _named_faults(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements of the block or none; other processes' writers wait. A block inside a block joins it."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._connection.in_transaction:  # a full disk has already rolled it back
                    self._connection.execute("ROLLBACK")
                raise
            try:
                self.execute("COMMIT")
            except NinestoryError:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def migrate(self, owner: str, scripts: Sequence[str]) -> None:
        """Bring `owner`'s tables to the version len(scripts): run those scripts that have not run, in one transaction.

        Raises:
            Conflict: the database was written by a newer ninestory.
        """
        if self._version(owner) == len(scripts):  # the usual case writes nothing: it works on a full disk too
            return
        with self.transaction():
            version = self._version(owner)
            if version > len(scripts):
                raise Conflict(
                    f"{self.path.name} was written by a newer ninestory ({owner} {version}, this one knows "
                    f"{len(scripts)}).",
                    hint="Install the newer version again, or set NINESTORY_HOME to another directory.",
                    hint_zh="请重新安装较新的版本，或将 NINESTORY_HOME 设为其他目录。",
                    code="newer_schema",
                )
            for script in scripts[version:]:
                for statement in _statements(script):
                    self.execute(statement)
            self.execute("INSERT OR REPLACE INTO schema_versions VALUES (?, ?)", (owner, len(scripts)))

    def _version(self, owner: str) -> int:
        rows = self.execute("SELECT version FROM schema_versions WHERE owner = ?", (owner,))
        return int(rows[0]["version"]) if rows else 0

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one (`executescript` would commit the transaction around them)."""
    pending = ""
    for piece in script.split(";"):
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            if pending.strip(" \n\t;"):
                yield pending
            pending = ""


@contextmanager
def _named_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        raise _fault(path, error) from error


def _fault(path: Path, error: sqlite3.DatabaseError) -> Exception:
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and _no_room(path)):
        return DiskFull(
            f"No room left on the disk for {path}.",
            hint="Free some space and try again; what was stored before is intact.",
            hint_zh="请清理磁盘后重试；此前保存的内容完好。",
        )
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(
            f"The state database {path} is damaged: {error}.",
            hint=f"Move {path.name} away (with {path.name}-wal and {path.name}-shm) and start again; models, "
            "knowledge bases and runs are not in it.",
            hint_zh=f"请移走 {path.name}（及 {path.name}-wal、{path.name}-shm）后重新启动；"
            "模型、知识库与训练结果不在其中。",
            code="damaged_state",
        )
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(
            f"Another process has been writing to {path.name} for {BUSY_TIMEOUT_SECONDS:g} s.",
            hint="Try again in a moment.",
            hint_zh="请稍后重试。",
            code="state_busy",
            retry_after=1,
        )
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
        return Unavailable(
            f"{path} cannot be opened or written: {error}.",
            hint="Check that its directory exists, is yours and is not read-only, or set NINESTORY_HOME.",
            hint_zh="请检查该目录是否存在、归你所有且可写，或设置 NINESTORY_HOME。",
            code="state_unwritable",
        )
    return error  # a mistake in a statement: the programmer's, so it keeps its name and traceback


def _no_room(path: Path) -> bool:
    usage = os.statvfs(path.parent)
    return usage.f_bavail * usage.f_frsize < 1 << 20


class HomeLock:
    """Proof that this process is the one server of a home; released when the process ends, however it ends."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def release(self) -> None:
        self._file.close()


def lock_home(home: Home) -> HomeLock:
    """Become the one server of `home`.

    Raises:
        Conflict: another server runs on it; the message holds its process id.
    """
    home.ensure().run_dir.mkdir(exist_ok=True, mode=0o700)
    file = (home.run_dir / "server.lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise Conflict(
            f"A server already runs on {home.root} (process {holder}).",
            hint="Use that one (ninestory ps --server URL), stop it, or set NINESTORY_HOME to another directory.",
            hint_zh="请使用该服务（ninestory ps --server URL），或先停止它，或将 NINESTORY_HOME 设为其他目录。",
            code="home_in_use",
        ) from None
    file.truncate(0)
    with suppress(OSError):  # on a full disk only the message to a second server lacks the process id
        file.write(str(os.getpid()))
        file.flush()
    return HomeLock(file)
