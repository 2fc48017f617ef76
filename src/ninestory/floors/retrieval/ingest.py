"""From files to published passages: register, parse, cut, embed what is new, write, index, publish.

Every step can be repeated: a killed ingest leaves its files pending and readers on the version before.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest, NinestoryError, NotFound
from ninestory.core.locks import waiting_lock
from ninestory.core.paths import inside
from ninestory.core.progress import Progress
from ninestory.floors.retrieval.calibration import calibrate
from ninestory.floors.retrieval.chunking.structure import chunk_document
from ninestory.floors.retrieval.document import Document
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, KnowledgeFile
from ninestory.floors.retrieval.parsing import is_supported
from ninestory.floors.retrieval.parsing.isolated import ParserProcess
from ninestory.floors.retrieval.table import ChunkWriter

MAX_TOKENS, OVERLAP_TOKENS = 240, 32
EMBEDDED_AT_ONCE = 64
_ENDINGS = {"application/pdf": ".pdf", "text/plain": ".txt", "text/markdown": ".md", "application/json": ".json"}
_SPECIAL_TOKENS = 8  # prefix and marks that the model adds to a passage
_FATAL = frozenset({"cancelled", "disk_full", "shutting_down", "damaged_knowledge_base", "other_embedding_model"})


@dataclass
class IngestReport:
    """What an ingest did. `failed` and `skipped` name each file; the others went through."""

    indexed: int = 0
    unchanged: int = 0
    removed: int = 0
    chunks: int = 0
    embedded: int = 0  # chunks whose vectors were not there yet
    failed: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def add_paths(
    base: KnowledgeBase, paths: list[Path], report: IngestReport, attributes: dict[str, Any] | None = None
) -> None:
    """Register copies of files; a folder's files come in under their paths below it.

    Raises:
        NotFound: a path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} does not exist.", hint="Check the path.", hint_zh="请检查路径。", param="paths")
        for name, file in _files_below(path, report) if path.is_dir() else [(path.name, path)]:
            _add_copy(base, name, file, report, attributes)


def add_page(base: KnowledgeBase, url: str, report: IngestReport, attributes: dict[str, Any] | None = None) -> None:
    """Fetch a page (or a document behind an address) by the guarded web client and register it under its address.

    Raises:
        Forbidden: the address leads into a private network. RemoteFailed, TooLarge, TimedOut: as `core.web.fetch`.
    """
    from ninestory.core.web import fetch

    page = fetch(url)
    name = page.url if is_supported(page.url) else f"{page.url.rstrip('/')}{_ENDINGS.get(page.content_type, '.html')}"
    base.documents.mkdir(exist_ok=True)
    fetched = base.documents / f"page-{secrets.token_hex(12)}.part"
    try:
        fetched.write_bytes(page.body)
        _add_copy(base, name, fetched, report, attributes)
    finally:
        fetched.unlink(missing_ok=True)


def _add_copy(
    base: KnowledgeBase, name: str, path: Path, report: IngestReport, attributes: dict[str, Any] | None
) -> None:
    digest = _sha256(path)
    known = next((f for f in base.files() if f.folder == "" and f.name == name), None)
    if known and known.sha256 == digest and known.status == "indexed":
        if attributes:
            base.set_attributes(known.id, attributes)
        report.unchanged += 1
        return
    file_id = base.register(name, path, sha256=digest, attributes=attributes)
    base.documents.mkdir(exist_ok=True)
    copy = base.documents / file_id
    shutil.copyfile(path, copy.with_suffix(".part"))
    copy.with_suffix(".part").replace(copy)
    base.register(name, copy, sha256=digest, attributes=attributes)


def sync_folder(base: KnowledgeBase, folder: Path, report: IngestReport) -> None:
    """Register what is new or changed below `folder`, and mark what is gone. Files are referenced, not copied.

    Raises:
        NotFound: it is no folder.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise NotFound(f"{folder} is no folder.", hint="Check the path.", hint_zh="请检查路径。", param="folder")
    known = {file.name: file for file in base.files() if file.folder == str(root)}
    seen = set()
    for name, path in _files_below(root, report):
        seen.add(name)
        before, stat = known.get(name), path.stat()
        if before and before.status in ("written", "indexed"):
            if (before.bytes, before.mtime) == (stat.st_size, stat.st_mtime):
                report.unchanged += 1
                continue
            if before.sha256 == _sha256(path):
                base.touch(before.id, stat.st_mtime)
                report.unchanged += 1
                continue
        base.register(name, path, folder=str(root), sha256=_sha256(path))
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
    base: KnowledgeBase, embedder: Embedder, progress: Progress, report: IngestReport | None = None
) -> IngestReport:
    """Bring every pending file in, take every removed one out, and publish.

    Raises:
        Conflict: another embedding model. DiskFull, Cancelled: readers stay on the last published version, and the
            next ingest goes on where this one stopped.
    """
    report = report or IngestReport()
    with waiting_lock(base.lock_path, lambda: progress.update(0, None, "waiting for another ingest")):
        embedder.check(base)
        dimensions = len(base.get("probe"))
        writer = ChunkWriter(base, dimensions)
        removed = base.files("removed")
        writer.delete_files([file.id for file in removed])
        base.forget(file.id for file in removed)
        report.removed += len(removed)
        pending = base.files("pending")
        with ParserProcess() as parser:
            intake = _Intake(base, writer, parser, embedder, progress, report)
            for done, file in enumerate(pending):
                place = (done, len(pending), file.name)
                progress.update(*place)
                replace(intake, place=place).take(file)
                progress.checkpoint({"done": done + 1})  # this many survive whatever comes
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


@dataclass(frozen=True)
class _Intake:
    """What every file of one ingest goes through."""

    base: KnowledgeBase
    writer: ChunkWriter
    parser: ParserProcess
    embedder: Embedder
    progress: Progress
    report: IngestReport
    place: tuple[float, int, str] = (0, 0, "")  # what the progress was told last

    def take(self, file: KnowledgeFile) -> None:
        """One file whole; a failure is noted on it and does not stop the others."""
        try:
            if not file.path.is_file():
                raise NotFound(f"{file.name} is no longer there.", code="file_gone")
            self._write(file)
        except NinestoryError as error:
            if error.code in _FATAL:
                raise
            self.writer.delete_files([file.id])
            self.base.mark(file.id, "failed", error=error.as_dict())
            self.base.drop(_part_key(file))
            self.report.failed.append({"file": file.name, "code": error.code, "message": error.message})

    def _write(self, file: KnowledgeFile) -> None:
        """Part by part (most files are one): after each it is noted where to go on, so a cancel or kill costs a part."""
        part = _Part(**self.base.get(_part_key(file), {}))
        if (part.sha256, part.mtime) != (file.sha256, file.mtime) or part.table != self.base.table_path.name:
            part = _Part(sha256=file.sha256, mtime=file.mtime, table=self.base.table_path.name)
        notes: list[str] = part.notes
        done, total, name = self.place
        while part.position is not None:
            if part.position:
                self.progress.update(done + part.position / max(file.bytes, 1), total, name)
            document, following = self.parser.parse_part(file.path, file.name, part.position)
            rows, embedded = self._rows(file, document, part)
            if part.position == 0:
                self.writer.delete_files([file.id])  # of the version before; what stands there was looked up first
            else:
                self.writer.delete_from(file.id, part.chunks)  # written by an ingest that was killed before its note
            self.writer.add(rows)
            self.report.chunks += len(rows)
            self.report.embedded += embedded
            notes += document.notes
            characters = part.characters + len(document.text) + 2
            part = replace(part, position=following, chunks=part.chunks + len(rows), characters=characters, notes=notes)
            if following is not None:
                self.base.put(**{_part_key(file): asdict(part)})
        self.base.mark(file.id, "written", chunks=part.chunks, notes=notes)
        self.base.drop(_part_key(file))
        self.report.indexed += 1

    def _rows(self, file: KnowledgeFile, document: Document, part: _Part) -> tuple[list[dict[str, Any]], int]:
        """The table's rows of a document, and how many vectors were made now and not found by their text's hash."""
        most = min(file.options.get("max_tokens", MAX_TOKENS), self.embedder.context - _SPECIAL_TOKENS)
        overlap = min(file.options.get("overlap_tokens", OVERLAP_TOKENS), most // 2)
        chunks = chunk_document(document, self.embedder.count_tokens, max_tokens=most, overlap_tokens=overlap)
        hashes = [hashlib.sha256(chunk.searched.encode()).hexdigest() for chunk in chunks]
        vectors: dict[str, Any] = dict(self.writer.vectors(hashes))
        new = {digest: chunk.searched for digest, chunk in zip(hashes, chunks, strict=True) if digest not in vectors}
        vectors |= self._embedded(new)
        rows = [
            {
                "id": f"{file.id}:{ordinal}",
                "file_id": file.id,
                "file": file.name,
                "ordinal": ordinal,
                "text": chunk.text,
                "context": chunk.context,
                "searched": chunk.searched,
                "page": chunk.page,
                "start": part.characters + chunk.start,
                "end": part.characters + chunk.end,
                "hash": digest,
                "vector": vectors[digest],
            }
            for ordinal, (digest, chunk) in enumerate(zip(hashes, chunks, strict=True), part.chunks)
        ]
        return rows, len(new)

    def _embedded(self, texts: dict[str, str]) -> dict[str, Any]:
        """Vectors by the texts' keys; a cancel is heard every `EMBEDDED_AT_ONCE` texts."""
        keys = list(texts)
        vectors: dict[str, Any] = {}
        for first in range(0, len(keys), EMBEDDED_AT_ONCE):
            if first:
                self.progress.update(*self.place)
            some = keys[first : first + EMBEDDED_AT_ONCE]
            vectors |= dict(zip(some, self.embedder.passages([texts[key] for key in some]), strict=True))
        return vectors


@dataclass(frozen=True)
class _Part:
    """How far a file has come: the next byte to read (None after the last), and what was written before it."""

    sha256: str = ""
    mtime: float = 0.0
    table: str = ""
    position: int | None = 0
    chunks: int = 0
    characters: int = 0
    notes: list[str] = field(default_factory=list)


def _part_key(file: KnowledgeFile) -> str:
    return f"part {file.id}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
