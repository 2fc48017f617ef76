"""A knowledge base as one file: export, and import of a file that need not be trusted."""

from __future__ import annotations

import errno
import gzip
import re
import secrets
import shutil
import tarfile
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, DiskFull, NinestoryError, TooLarge
from ninestory.core.locks import waiting_lock
from ninestory.core.paths import Home, atomic_write, inside
from ninestory.core.progress import Progress
from ninestory.core.regular_file import open_regular
from ninestory.core.scratch import ScratchFolder
from ninestory.floors.retrieval.exported_database import FILE_ID, TABLE_NAME, restore
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, KnowledgeFile
from ninestory.floors.retrieval.lance_manifest import check_manifests

MAX_UNPACKED_BYTES = 64 << 30
MAX_MEMBERS = 250_000
_HEADER_BYTES = 64 << 10  # of one member: its name, and what extended headers add
_MEMBER = re.compile(rf"kb\.db|documents(/{FILE_ID})?|{TABLE_NAME}(/[A-Za-z0-9_.-]+)*")


def export_base(base: KnowledgeBase, path: Path, progress: Progress) -> None:
    """Write settings, documents, passages and vectors to a `.tar.gz`; no ingest writes meanwhile.

    Documents of synced folders and uploads are packed as copies too, where they are still there.
    """
    with waiting_lock(base.lock_path, lambda: progress.update(0, None, "waiting for an ingest")):
        base.settle()
        tables = sorted(part for part in base.folder.glob("chunks-*") if re.fullmatch(TABLE_NAME, part.name))
        files = base.files()
        with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as archive:
            archive.add(base.folder / "kb.db", arcname="kb.db")
            for table in tables:
                progress.update(0, len(files), table.name)
                archive.add(table, arcname=table.name)
            for done, document in enumerate(files):
                progress.update(done, len(files), document.name)
                _add_document(archive, document)


def _add_document(archive: tarfile.TarFile, document: KnowledgeFile) -> None:
    """Pack one document under its id; one that is gone, or is a link out of its folder now, is left out."""
    try:
        if document.folder:
            inside(Path(document.folder), document.name)
        source = open_regular(document.path)
    except (NinestoryError, OSError):
        return
    with source:
        archive.addfile(archive.gettarinfo(arcname=f"documents/{document.id}", fileobj=source), source)


def import_base(home: Home, path: Path, name: str = "") -> KnowledgeBase:
    """Take an exported knowledge base in, under a new id.

    Raises:
        Damaged: it is no such archive, or holds what an export never writes. TooLarge: it unpacks to too much.
        DiskFull: there is no room for it.
    """
    home.kb.mkdir(parents=True, exist_ok=True, mode=0o700)
    kb_id = f"vs_{secrets.token_hex(12)}"
    scratch = ScratchFolder(".import-", home.kb)
    started = scratch.path
    exported = started / "exported.db"
    try:
        with open_regular(path) as packed:
            _unpack(packed, started)
        if not (started / "kb.db").is_file():
            raise Damaged(f"{path.name} is no exported knowledge base: it has no kb.db.", code="damaged_archive")
        check_manifests(started)
        (started / "kb.db").rename(exported)
        base = KnowledgeBase(started)
        try:
            restore(exported, base)
            if name:
                base.put(name=name)
            base.settle()
        finally:
            base.close()
        exported.unlink()
        started.rename(home.kb / kb_id)
    except (tarfile.TarError, EOFError, OSError, RecursionError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"No room left on the disk to unpack {path.name}.",
                hint="Free some space and import it again.",
                hint_zh="请清理磁盘后重新导入。",
            ) from error
        raise Damaged(
            f"{path.name} cannot be unpacked: {error}.",
            hint="Export it again.",
            hint_zh="请重新导出。",
            code="damaged_archive",
        ) from error
    finally:
        scratch.close()
    moved = KnowledgeBase(home.kb / kb_id)
    moved.relocate_copies()
    return moved


def _unpack(packed: Any, folder: Path) -> None:
    """Write the members of an archive below `folder`, one at a time, so that their number takes no memory."""
    stream = _Unpacked(packed)
    left, count = min(MAX_UNPACKED_BYTES, shutil.disk_usage(folder).free), 0
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        while True:
            stream.allowance = _HEADER_BYTES
            member = archive.next()
            if member is None:
                return
            archive.members = []  # type: ignore[attr-defined]
            archive.pax_headers = {}
            count, left = count + 1, left - member.size
            if count > MAX_MEMBERS or left < 0:
                raise TooLarge(
                    f"The archive holds more than {MAX_MEMBERS:,} files, or unpacks to more than there is room for "
                    f"({MAX_UNPACKED_BYTES >> 30} GB at most).",
                    hint="Import it where there is more room.",
                    hint_zh="请在空间更大的磁盘上导入。",
                    code="archive_too_large",
                )
            plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) and not member.issparse()
            if not plain or not _MEMBER.fullmatch(member.name) or ".." in member.name.split("/"):
                raise Damaged(
                    f"The archive is no exported knowledge base: it holds {member.name[:100]!r}.",
                    hint="Import a file written by 'ninestory kb export'.",
                    hint_zh="请导入由 ninestory kb export 写出的文件。",
                    code="damaged_archive",
                )
            stream.allowance = member.size
            archive.extract(member, folder, filter="data")


class _Unpacked(gzip.GzipFile):
    """A gzip stream that gives no more than `allowance` bytes: an extended header may claim any size."""

    def __init__(self, packed: Any) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self.allowance = _HEADER_BYTES  # the first header is read when the archive is opened

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or size > self.allowance:
            raise tarfile.ReadError(f"a header of more than {_HEADER_BYTES} bytes")
        self.allowance -= size
        return super().read(size)
