"""core/state.py: migrations, the one-server lock, and faults with names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ninestory.core.errors import Conflict, Damaged, DiskFull, Unavailable
from ninestory.core.paths import Home
from ninestory.core.state import State, lock_home

NOTES = (
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT; CREATE INDEX notes_text ON notes (text);",
)
NOTES_2 = (*NOTES, "ALTER TABLE notes ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0")


def test_migration_runs_only_what_is_new(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.migrate("notes", NOTES)
    state.execute("INSERT INTO notes (text) VALUES ('kept')")
    state.close()
    state = State(tmp_path / "state.db")
    state.migrate("notes", NOTES_2)
    state.migrate("notes", NOTES_2)
    assert [tuple(row) for row in state.execute("SELECT text, pinned FROM notes")] == [("kept", 0)]


def test_failing_migration_leaves_nothing_behind(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    with pytest.raises(Exception, match="syntax error"):
        state.migrate("notes", (*NOTES, "CREATE TABEL oops"))
    assert state.execute("SELECT name FROM sqlite_master WHERE name = 'notes'") == []


def test_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.migrate("notes", NOTES_2)
    with pytest.raises(Conflict, match="newer ninestory"):
        state.migrate("notes", NOTES)


def test_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.migrate("notes", NOTES)
    with pytest.raises(RuntimeError), state.transaction():
        state.execute("INSERT INTO notes (text) VALUES ('half')")
        raise RuntimeError
    assert state.execute("SELECT * FROM notes") == []


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is not a database " * 200)
    with pytest.raises(Damaged, match=r"state\.db") as caught:
        State(path)
    assert "Move" in caught.value.hint and caught.value.hint_zh != caught.value.hint


def test_torn_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = State(path)
    state.migrate("notes", NOTES)
    with state.transaction():
        for number in range(2000):
            state.execute("INSERT INTO notes (text) VALUES (?)", (f"{number:0200}",))
    state.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    torn = State(path)
    with pytest.raises(Damaged):
        torn.execute("SELECT COUNT(*) FROM notes WHERE text LIKE '%7%'")


def test_full_disk_is_named_and_keeps_what_was_stored(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.migrate("notes", NOTES)
    state.execute("INSERT INTO notes (text) VALUES ('before')")
    pages = state.execute("PRAGMA page_count")[0][0]
    state.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFull), state.transaction():
        state.execute("INSERT INTO notes (text) VALUES ('first of the block')")
        state.execute("INSERT INTO notes (text) VALUES (?)", ("x" * 100_000,))
    assert [row["text"] for row in state.execute("SELECT text FROM notes")] == ["before"]
    state.execute("PRAGMA max_page_count = 1000000")
    state.execute("INSERT INTO notes (text) VALUES ('after')")


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(Unavailable, match="cannot be opened"):
        State(tmp_path / "state.db")


def test_second_server_of_a_home_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from ninestory.core.paths import Home;"
        "from ninestory.core.state import lock_home;"
        "lock = lock_home(Home(Path(sys.argv[1]))); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(Conflict, match=str(holder.pid)):
        lock_home(Home(tmp_path))
    holder.kill()
    holder.wait()
    lock_home(Home(tmp_path)).release()
    lock_home(Home(tmp_path)).release()
