"""`kb import` of archives that a stranger wrote: nothing outside the knowledge base is read or followed afterwards."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import shutil
import sqlite3
import struct
import tarfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from ninestory.core.errors import Damaged, InvalidRequest, TooLarge
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval import archive
from ninestory.floors.retrieval.archive import export_base, import_base
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, create
from ninestory.floors.retrieval.verify import verify_base
from tests.hashing_engine import HashingEngine

SECRET = "the secret of this machine"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(SECRET, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of one document, unpacked."""
    room = tmp_path_factory.mktemp("honest")
    base = create(Home(room / "home"), "notes", model="test:hashing")
    (room / "a.md").write_text("# Apples\nApples are red.\n", encoding="utf-8")
    add_paths(base, [room / "a.md"], IngestReport())
    ingest(base, Embedder(HashingEngine()), Silent())
    export_base(base, room / "notes.tar.gz", Silent())
    base.close()
    with tarfile.open(room / "notes.tar.gz") as unpacking:
        unpacking.extractall(room / "exported", filter="data")
    return room / "exported"


@pytest.fixture
def exported(honest: Path, tmp_path: Path) -> Path:
    """The same, to be tampered with."""
    return shutil.copytree(honest, tmp_path / "exported")


def packed(folder: Path) -> Path:
    path = folder.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz", compresslevel=1) as packing:
        for part in sorted(folder.iterdir()):
            packing.add(part, arcname=part.name)
    return path


def tampered(exported: Path, *statements: str, parameters: Sequence[Sequence[str]] = ()) -> Path:
    with closing(sqlite3.connect(exported / "kb.db")) as database:
        for number, statement in enumerate(statements):
            database.execute(statement, parameters[number] if number < len(parameters) else ())
        database.commit()
    return packed(exported)


def imported(tmp_path: Path, path: Path) -> KnowledgeBase:
    return import_base(Home(tmp_path / "other"), path)


def assert_reads_only_its_own(base: KnowledgeBase) -> None:
    for file in base.files():
        assert file.folder == "" and file.path == base.documents / file.id
        assert not file.path.is_file() or SECRET not in file.path.read_text(encoding="utf-8")
    assert base.table_path.parent == base.folder and base.get("folders", []) == []
    assert base.published is None or (base.folder / base.published.table).parent == base.folder


def test_a_path_of_its_own_becomes_the_copy(tmp_path: Path, exported: Path, secret: Path) -> None:
    path = tampered(exported, "UPDATE files SET path = ?", parameters=[[str(secret)]])
    assert_reads_only_its_own(imported(tmp_path, path))


def test_a_synced_folder_of_its_own_is_not_followed(tmp_path: Path, exported: Path, secret: Path) -> None:
    folder = str(secret.parent)
    path = tampered(
        exported,
        "UPDATE files SET path = ?, folder = ?, name = 'secret.txt', status = 'pending', id = 'file-' || hex(zeroblob(12))",
        "INSERT OR REPLACE INTO settings VALUES ('folders', ?)",
        parameters=[[str(secret), folder], [json.dumps([folder])]],
    )
    base = imported(tmp_path, path)
    assert_reads_only_its_own(base)
    report = ingest(base, Embedder(HashingEngine()), Silent())
    assert [failure["code"] for failure in report.failed] == ["file_gone"]


def test_a_trigger_cannot_put_a_path_back(tmp_path: Path, exported: Path, secret: Path) -> None:
    trigger = f"""CREATE TRIGGER again AFTER UPDATE ON files
        BEGIN UPDATE files SET path = '{secret}', folder = '{secret.parent}' WHERE id = NEW.id; END"""
    assert_reads_only_its_own(imported(tmp_path, tampered(exported, trigger, "UPDATE files SET path = path")))


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE files SET id = '../../../secret.txt'"],
        ["INSERT OR REPLACE INTO settings VALUES ('table', '\"../../elsewhere\"')"],
        ["UPDATE settings SET value = json_set(value, '$.table', '../../x') WHERE key = 'published'"],
        ["UPDATE settings SET value = '{}' WHERE key = 'model'"],
        ['UPDATE files SET options = \'{"max_tokens": "many"}\''],
        ["UPDATE files SET status = 'unheard of'"],
        [
            "ALTER TABLE files RENAME TO really",
            """CREATE VIEW files AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
               SELECT really.* FROM really, n""",
        ],
    ],
    ids=["file id", "table", "published table", "model", "options", "status", "endless view"],
)
def test_values_that_no_export_writes_are_refused(tmp_path: Path, exported: Path, statements: list[str]) -> None:
    with pytest.raises(Damaged, match=r"kb\.db"):
        imported(tmp_path, tampered(exported, *statements))
    assert not list((tmp_path / "other" / "kb").iterdir())


@pytest.mark.parametrize(
    "added",
    [b"\x92\x01\x06\x22\x04/etc", b"\xa2\x01\x01b", b"\xff", b"\x13"],
    ids=["base_paths", "branch", "cut", "wire type"],
)
def test_a_table_that_reads_elsewhere_is_refused(tmp_path: Path, exported: Path, added: bytes) -> None:
    """A manifest may name folders and addresses that the table's files are read from."""
    for path in exported.rglob("*.manifest"):
        data = path.read_bytes()
        (position,) = struct.unpack("<q", data[-16:-8])
        message = data[position + 4 : -16] + added
        path.write_bytes(data[:position] + struct.pack("<I", len(message)) + message + data[-16:])
    with pytest.raises(Damaged, match="manifest"):
        imported(tmp_path, packed(exported))


def _members(write: Callable[[tarfile.TarFile], None]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as packing:
        write(packing)
    return file.getvalue()


def _header(kind: bytes, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo("documents/x")
    info.type, info.size = kind, size
    return info


def test_the_number_of_members_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 100)
    path = tmp_path / "many.tar.gz"
    path.write_bytes(_members(lambda p: [p.addfile(tarfile.TarInfo(f"documents/{n}")) for n in range(200)] and None))
    with pytest.raises(TooLarge):
        imported(tmp_path, path)


def test_the_declared_size_is_bounded_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "large.tar.gz"
    path.write_bytes(gzip.compress(_header(tarfile.REGTYPE, 1 << 40).tobuf(tarfile.GNU_FORMAT) + b"\0" * 10_240))
    with pytest.raises(TooLarge):
        imported(tmp_path, path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_any_size_takes_no_memory(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "header.tar.gz"
    path.write_bytes(gzip.compress(_header(kind, 300 << 20).tobuf(tarfile.GNU_FORMAT) + b"\0" * (1 << 20), 1))
    with pytest.raises(Damaged, match="header"):
        imported(tmp_path, path)


def test_headers_without_end_are_refused(tmp_path: Path) -> None:
    one = _header(tarfile.XGLTYPE, 512).tobuf(tarfile.GNU_FORMAT) + b"30 comment=aaaaaaaaaaaaaaaaaa\n".ljust(512, b"\0")
    path = tmp_path / "headers.tar.gz"
    path.write_bytes(gzip.compress(one * 5000, 1))
    with pytest.raises(Damaged):
        imported(tmp_path, path)


def test_the_settings_and_rows_of_an_honest_base_arrive(tmp_path: Path) -> None:
    base = create(Home(tmp_path / "home"), "notes", model="test:hashing", metadata={"team": "a"})
    (tmp_path / "a.md").write_text("# Apples\nApples are red.\n", encoding="utf-8")
    add_paths(base, [tmp_path / "a.md"], IngestReport(), {"year": 2020.0, "kind": "note"})
    ingest(base, Embedder(HashingEngine()), Silent())
    base.put(description=None)  # what a client of the API may set
    base.add_feedback("Red?", "Yes.", good=True, file="a.md")
    export_base(base, tmp_path / "notes.tar.gz", Silent())
    copy = imported(tmp_path, tmp_path / "notes.tar.gz")
    for setting in ("name", "model", "metadata", "description", "created_at", "published", "thresholds", "probe"):
        assert copy.get(setting, "missing") == base.get(setting, None), setting
    assert copy.thresholds is not None and copy.feedback() == base.feedback()
    [(theirs, ours)] = zip(copy.files(), base.files(), strict=True)
    assert dataclasses.replace(theirs, path=ours.path) == ours


def test_a_synced_folder_is_packed_as_copies(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.md").write_text("# Boats\nBoats float.\n", encoding="utf-8")
    base = create(Home(tmp_path / "home"), "synced", model="test:hashing")
    sync_folder(base, folder, IngestReport())
    ingest(base, Embedder(HashingEngine()), Silent())
    export_base(base, tmp_path / "synced.tar.gz", Silent())
    (folder / "b.md").unlink()
    copy = imported(tmp_path, tmp_path / "synced.tar.gz")
    assert_reads_only_its_own(copy)
    assert copy.files()[0].path.read_text(encoding="utf-8").startswith("# Boats") and verify_base(copy) == []


def test_an_archive_that_is_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar.gz")
    with pytest.raises(InvalidRequest, match="regular file"):
        imported(tmp_path, tmp_path / "pipe.tar.gz")
