"""From files to published passages: register, parse, cut, embed what is new, write, index, publish.

Every step can be repeated: a killed ingest leaves its files pending and readers on the version before.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.core.locks import waiting_lock
from ninestory.core.paths import atomic_write, inside, part_of, sweep_parts
from ninestory.core.progress import Progress, Silent
from ninestory.core.regular_file import open_regular
from ninestory.floors.retrieval.calibration import calibrate
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.embedders import Embedders
from ninestory.floors.retrieval.intake import IngestReport as IngestReport
from ninestory.floors.retrieval.intake import Intake
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
from ninestory.floors.retrieval.parsing import is_supported
from ninestory.floors.retrieval.parsing.isolated import ParserProcess
from ninestory.floors.retrieval.table import ChunkWriter

_ENDINGS = {"application/pdf": ".pdf", "text/plain": ".txt", "text/markdown": ".md", "application/json": ".json"}

_BLOCK_BYTES = 4 << 20


def add_paths(
    base: KnowledgeBase, paths: list[Path], report: IngestReport, attributes: dict[str, Any] | None = None
) -> None:
    """Register copies of files; a folder's files come in under their paths below it.

    Raises:
        NotFound: a path does not exist.
    """
    for path in paths:
        for name, file in files_of(path, report):
            _add_copy(base, name, file, report, attributes)


def files_of(path: Path, report: IngestReport) -> Iterator[tuple[str, Path]]:
    """A file under its name, or the readable files below a folder under their paths there.

    Raises:
        NotFound: the path does not exist.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist.", hint="Check the path.", hint_zh="请检查路径。", param="paths")
    yield from _files_below(path, report) if path.is_dir() else [(path.name, path)]


def add_page(base: KnowledgeBase, url: str, report: IngestReport, attributes: dict[str, Any] | None = None) -> None:
    """Fetch a page (or a document behind an address) by the guarded web client and register it under its address.

    Raises:
        Forbidden: the address leads into a private network. RemoteFailed, TooLarge, TimedOut: as `core.web.fetch`.
    """
    from ninestory.core.web import fetch

    page = fetch(url)
    name = page.url if is_supported(page.url) else f"{page.url.rstrip('/')}{_ENDINGS.get(page.content_type, '.html')}"
    base.documents.mkdir(exist_ok=True)
    fetched = part_of(base.documents / f"page-{secrets.token_hex(12)}")
    try:
        fetched.write_bytes(page.body)
        _add_copy(base, name, fetched, report, attributes)
    finally:
        fetched.unlink(missing_ok=True)


def _add_copy(
    base: KnowledgeBase, name: str, path: Path, report: IngestReport, attributes: dict[str, Any] | None
) -> None:
    digest = _sha256(path, lambda: None)
    known = next((f for f in base.files() if f.folder == "" and f.name == name), None)
    if known and known.sha256 == digest and known.status == "indexed":
        if attributes:
            base.set_attributes(known.id, attributes)
        report.unchanged += 1
        return
    file_id = base.register(name, path, sha256=digest, attributes=attributes)
    base.documents.mkdir(exist_ok=True)
    copy = base.documents / file_id
    with open_regular(path) as source, atomic_write(copy) as target:
        shutil.copyfileobj(source, target, _BLOCK_BYTES)
    base.register(name, copy, sha256=digest, attributes=attributes)


def sync_folder(base: KnowledgeBase, folder: Path, report: IngestReport, progress: Progress | None = None) -> None:
    """Register what is new or changed below `folder`, and mark what is gone. Files are referenced, not copied.

    Raises:
        NotFound: it is no folder. Cancelled: what was compared so far stays registered.
    """
    look = partial((progress or Silent()).update, 0, None, f"comparing {folder.name}")
    root = folder.resolve()
    if not root.is_dir():
        raise NotFound(f"{folder} is no folder.", hint="Check the path.", hint_zh="请检查路径。", param="folder")
    known = {file.name: file for file in base.files() if file.folder == str(root)}
    seen = set()
    for name, path in _files_below(root, report):
        look()
        seen.add(name)
        before, stat = known.get(name), path.stat()
        if before and before.status in ("written", "indexed"):
            if (before.bytes, before.mtime) == (stat.st_size, stat.st_mtime):
                report.unchanged += 1
                continue
            if before.sha256 == _sha256(path, look):
                base.touch(before.id, stat.st_mtime)
                report.unchanged += 1
                continue
        base.register(name, path, folder=str(root), sha256=_sha256(path, look))
    for name in known.keys() - seen:
        base.remove_file(known[name].id)
    folders = set(base.get("folders", [])) | {str(root)}
    base.put(folders=sorted(folders))


def changed_files(base: KnowledgeBase, folder: Path) -> list[str]:
    """Names that are new, gone, or of another size or time than when they were read; nothing is read now."""
    root = folder.resolve()
    known = {f.name: (f.bytes, f.mtime) for f in base.files() if f.folder == str(root)}
    now = {name: (s.st_size, s.st_mtime) for name, path in _files_below(root, IngestReport()) for s in [path.stat()]}
    return sorted(name for name in known.keys() | now.keys() if known.get(name) != now.get(name))


def _files_below(root: Path, report: IngestReport) -> Iterator[tuple[str, Path]]:
    """Readable files by their paths below `root`; hidden ones and editors' leftovers are passed over.

    A link that leads out of the folder is a failure named in the report, and is not followed.
    """
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(part.startswith((".", "~$")) for part in Path(name).parts) or path.is_dir():
            continue
        try:
            inside(root, name)
        except InvalidRequest as error:
            report.failed.append({"file": name, "code": error.code, "message": f"{name} links out of the folder."})
            continue
        if not path.is_file():
            continue
        if is_supported(name):
            yield name, path
        else:
            report.skipped.append(name)


def ingest(
    base: KnowledgeBase,
    embedder: Embedder,
    progress: Progress,
    report: IngestReport | None = None,
    pool: Embedders | None = None,
) -> IngestReport:
    """Bring every pending file in, take every removed one out, and publish.

    Args:
        pool: the embedder with several requests at a time, for a large ingest; the table is the same without it.

    Raises:
        Conflict: another embedding model. DiskFull, Cancelled: readers stay on the last published version, and the
            next ingest goes on where this one stopped.
    """
    report = report or IngestReport()
    with waiting_lock(base.lock_path, lambda: progress.update(0, None, "waiting for another ingest")):
        sweep_parts(base.documents)
        embedder.check(base)
        dimensions = len(base.get("probe"))
        writer = ChunkWriter(base, dimensions)
        removed = base.files("removed")
        writer.delete_files([file.id for file in removed])
        base.forget(file.id for file in removed)
        report.removed += len(removed)
        pending = base.files("pending")
        with ParserProcess() as parser:
            Intake(base, writer, parser, embedder, pool, progress, report).take(pending)
        if removed or base.unfinished():
            progress.update(len(pending), len(pending), "indexing")
            writer.publish()
            calibrate(base, embedder)
            base.mark_published()
    progress.update(len(pending), len(pending), "done")
    return report


def compact(base: KnowledgeBase, progress: Progress) -> None:
    """Index what is there, and drop versions nobody reads. Nothing happens to a base that holds nothing."""
    with waiting_lock(base.lock_path, lambda: progress.update(0, None, "waiting for an ingest")):
        if probe := base.get("probe"):
            ChunkWriter(base, len(probe)).publish()
            base.mark_published()


def _sha256(path: Path, look: Callable[[], None]) -> str:
    """The sum of a regular file; `look` is called between two blocks."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK_BYTES):
            look()
            digest.update(block)
    return digest.hexdigest()
