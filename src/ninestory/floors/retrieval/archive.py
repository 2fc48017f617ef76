"""A knowledge base as one file: export, and import of a file that need not be trusted."""

from __future__ import annotations

import secrets
import shutil
import tarfile
from pathlib import Path

from ninestory.core.errors import Damaged, TooLarge
from ninestory.core.locks import waiting_lock
from ninestory.core.paths import Home, atomic_write
from ninestory.core.progress import Progress
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase

MAX_UNPACKED_BYTES = 64 << 30
_KEPT = ("kb.db", "documents", "chunks-")


def export_base(base: KnowledgeBase, path: Path, progress: Progress) -> None:
    """Write settings, copies, passages and vectors to a `.tar.gz`; no ingest writes meanwhile."""
    with waiting_lock(base.lock_path, lambda: progress.update(0, None, "waiting for an ingest")):
        base.settle()
        with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as archive:
            parts = sorted(p for p in base.folder.iterdir() if p.name.startswith(_KEPT) and p.suffix != ".part")
            for done, part in enumerate(parts):
                progress.update(done, len(parts), part.name)
                if not part.name.startswith("kb.db-"):  # what SQLite keeps beside an open database
                    archive.add(part, arcname=part.name)


def import_base(home: Home, path: Path, name: str = "") -> KnowledgeBase:
    """Take an exported knowledge base in, under a new id.

    Raises:
        Damaged: it is no such archive, or holds a path that leads out of it. TooLarge: it unpacks to too much.
    """
    home.kb.mkdir(parents=True, exist_ok=True, mode=0o700)
    kb_id = f"vs_{secrets.token_hex(12)}"
    started = home.kb / f".new-{kb_id}"
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = archive.getmembers()
            if sum(member.size for member in members) > MAX_UNPACKED_BYTES:
                raise TooLarge(
                    f"{path.name} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GB.", code="archive_too_large"
                )
            if strange := [m.name for m in members if not m.name.startswith(_KEPT) or not (m.isreg() or m.isdir())]:
                raise Damaged(f"{path.name} is no exported knowledge base: it holds {strange[0][:100]!r}.")
            archive.extractall(started, members, filter="data")
        base = KnowledgeBase(started)
        if base.get("model") is None:
            raise Damaged(f"{path.name} is no exported knowledge base: it has no settings.")
        if name:
            base.put(name=name)
        base.close()
        started.rename(home.kb / kb_id)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Damaged(
            f"{path.name} cannot be unpacked: {error}.",
            hint="Export it again.",
            hint_zh="请重新导出。",
            code="damaged_archive",
        ) from error
    finally:
        shutil.rmtree(started, ignore_errors=True)
    moved = KnowledgeBase(home.kb / kb_id)
    moved.relocate_copies()
    return moved
