"""What every file of one ingest goes through: parsed, cut, embedded, written, in the order of the files.

Several processes embed ahead of the writer; there is one writer, and what it writes does not depend on their number.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from ninestory.core.errors import NinestoryError, NotFound
from ninestory.core.progress import Progress
from ninestory.floors.retrieval.chunking.structure import Chunk, chunk_document
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.embedders import TEXTS_A_TASK, Embedders
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, KnowledgeFile
from ninestory.floors.retrieval.parsing.isolated import ParserProcess
from ninestory.floors.retrieval.table import ChunkWriter

MAX_TOKENS, OVERLAP_TOKENS = 240, 32
EMBEDDED_AT_ONCE = 16  # half a second of one processor
_SPECIAL_TOKENS = 8  # prefix and marks that the model adds to a passage
_TASKS_AHEAD = 3  # of each process: one in work, the next ones waiting
_COUNTED_CHARACTERS = 8192  # at once: a line may have any length
_WRITTEN_AT_ONCE = 1000  # passages
_LOOK_SECONDS = 0.5  # between two looks whether the work was cancelled
_FATAL = frozenset(
    [
        "cancelled",
        "disk_full",
        "shutting_down",
        "damaged_knowledge_base",
        "other_embedding_model",
        "worker_died",
        "worker_keeps_dying",
    ]
)


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


@dataclass(frozen=True)
class Part:
    """How far a file has come: the next byte to read (None after the last), and what was written before it."""

    sha256: str = ""
    mtime: float = 0.0
    table: str = ""
    position: int | None = 0
    chunks: int = 0
    characters: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Cut:
    """A part of a file, cut into passages, the texts that have no vector yet on their way to be embedded."""

    file: KnowledgeFile
    place: tuple[float, int, str]  # for the progress
    part: Part
    after: Part
    chunks: list[Chunk]
    hashes: list[str]
    known: dict[str, Any]  # vectors by the hash of the text
    new: dict[str, str]  # texts by their hash
    coming: list[Future[Any]]

    @property
    def is_last(self) -> bool:
        return self.after.position is None


@dataclass(frozen=True)
class _Failure:
    """A file that could not be read; its turn comes after what stands before it."""

    file: KnowledgeFile
    place: tuple[float, int, str]
    error: NinestoryError
    is_last = True
    chunks = ()


class Intake:
    """One ingest's way in. A failure is noted on its file and does not stop the others."""

    def __init__(
        self,
        base: KnowledgeBase,
        writer: ChunkWriter,
        parser: ParserProcess,
        embedder: Embedder,
        pool: Embedders | None,
        progress: Progress,
        report: IngestReport,
    ) -> None:
        self._base, self._writer, self._parser, self._embedder = base, writer, parser, embedder
        self._pool, self._progress, self._report = pool, progress, report
        self._ahead = pool.processes * _TASKS_AHEAD * TEXTS_A_TASK if pool else -1  # passages; -1 = none
        self._waiting: deque[_Cut | _Failure] = deque()
        self._failed: set[str] = set()
        self._looked_at = 0.0

    def take(self, files: Sequence[KnowledgeFile]) -> None:
        """Bring the files in.

        Raises:
            NinestoryError: what ends the whole ingest (cancelled, disk full, …); what is written stays.
        """
        done = 0
        for cut in self._cuts(files):
            self._waiting.append(cut)
            while self._waiting and sum(len(c.chunks) for c in self._waiting) > self._ahead:
                done = self._finish(self._waiting.popleft(), done)
        while self._waiting:
            done = self._finish(self._waiting.popleft(), done)

    def _cuts(self, files: Sequence[KnowledgeFile]) -> Iterator[_Cut | _Failure]:
        """The parts of all files in order, each with its texts sent off to be embedded."""
        for number, file in enumerate(files):
            place = (number, len(files), file.name)
            try:
                if not file.path.is_file():
                    raise NotFound(f"{file.name} is no longer there.", code="file_gone")
                yield from self._parts(file, place)
            except NinestoryError as error:
                if error.code in _FATAL:
                    raise
                yield _Failure(file, place, error)

    def _parts(self, file: KnowledgeFile, place: tuple[int, int, str]) -> Iterator[_Cut]:
        """Part by part (most files are one): after each it is noted where to go on, so a cancel or kill costs a part."""
        part = Part(**self._base.get(_part_key(file), {}))
        if (part.sha256, part.mtime) != (file.sha256, file.mtime) or part.table != self._base.table_path.name:
            part = Part(sha256=file.sha256, mtime=file.mtime, table=self._base.table_path.name)
        most = min(file.options.get("max_tokens", MAX_TOKENS), self._embedder.context - _SPECIAL_TOKENS)
        overlap = min(file.options.get("overlap_tokens", OVERLAP_TOKENS), most // 2)
        while part.position is not None and file.id not in self._failed:
            here = (place[0] + part.position / max(file.bytes, 1), *place[1:])
            self._tell(here)
            look = partial(self._look, here)
            document, following = self._parser.parse_part(file.path, file.name, part.position, look)
            counted = partial(self._count_tokens, look)
            chunks = chunk_document(document, counted, max_tokens=most, overlap_tokens=overlap)
            after = replace(
                part,
                position=following,
                chunks=part.chunks + len(chunks),
                characters=part.characters + len(document.text) + 2,
                notes=part.notes + document.notes,
            )
            hashes = [hashlib.sha256(chunk.searched.encode()).hexdigest() for chunk in chunks]
            known: dict[str, Any] = {}
            for first in range(0, len(hashes), _WRITTEN_AT_ONCE):
                look()
                known |= self._writer.vectors(hashes[first : first + _WRITTEN_AT_ONCE])
            new = {digest: chunk.searched for digest, chunk in zip(hashes, chunks, strict=True) if digest not in known}
            coming = self._pool.submit(list(new.values())) if self._pool else []
            yield _Cut(file, here, part, after, chunks, hashes, known, new, coming)
            part = after

    def _finish(self, cut: _Cut | _Failure, done: int) -> int:
        """Write what came of a part. Returns how many files are through: this many survive whatever comes."""
        file = cut.file
        self._progress.update(*cut.place)
        try:
            if isinstance(cut, _Failure):
                raise cut.error
            if file.id in self._failed:
                return done
            self._write(cut)
        except NinestoryError as error:
            if error.code in _FATAL:
                raise
            self._failed.add(file.id)
            self._writer.delete_files([file.id])
            self._base.mark(file.id, "failed", error=error.as_dict())
            self._base.drop(_part_key(file))
            self._report.failed.append({"file": file.name, "code": error.code, "message": error.message})
        else:
            if not cut.is_last:
                return done
        self._progress.checkpoint({"done": done + 1})
        return done + 1

    def _write(self, cut: _Cut) -> None:
        file, part, after = cut.file, cut.part, cut.after
        rows = _rows(cut, cut.known | self._embedded(cut))
        if part.position == 0:
            self._writer.delete_files([file.id])  # of the version before; what stands there was looked up first
        else:
            self._writer.delete_from(file.id, part.chunks)  # written by an ingest that was killed before its note
        for first in range(0, len(rows), _WRITTEN_AT_ONCE):
            self._progress.update(*cut.place)
            self._writer.add(rows[first : first + _WRITTEN_AT_ONCE])
        self._report.chunks += len(rows)
        self._report.embedded += len(cut.new)
        if not cut.is_last:
            self._base.put(**{_part_key(file): asdict(after)})
            return
        self._base.mark(file.id, "written", chunks=after.chunks, notes=after.notes)
        self._base.drop(_part_key(file))
        self._report.indexed += 1

    def _embedded(self, cut: _Cut) -> dict[str, Any]:
        """Vectors of the new texts; a cancel is heard between two looks, or every `EMBEDDED_AT_ONCE` texts."""
        keys = list(cut.new)
        found: list[Any] = []
        for future in cut.coming:
            while not wait([future], _LOOK_SECONDS).done:
                self._progress.update(*cut.place)
            found += list(future.result())
        for first in range(len(found), len(keys), EMBEDDED_AT_ONCE):
            if first:
                self._progress.update(*cut.place)
            found += list(self._embedder.passages([cut.new[key] for key in keys[first : first + EMBEDDED_AT_ONCE]]))
        return dict(zip(keys, found, strict=True))

    def _count_tokens(self, look: Callable[[], None], text: str) -> int:
        """Tokens of a text of any length; a cancel is heard between two pieces of it."""
        count = 0
        for first in range(0, len(text), _COUNTED_CHARACTERS):
            look()
            count += self._embedder.count_tokens(text[first : first + _COUNTED_CHARACTERS])
        return count

    def _look(self, place: tuple[float, int, str]) -> None:
        """Hear a cancel, in a loop that would report too often."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._tell(place)

    def _tell(self, place: tuple[float, int, str]) -> None:
        """The writer's place is what is shown, where it is behind."""
        self._progress.update(*(self._waiting[0].place if self._waiting else place))


def _rows(cut: _Cut, vectors: dict[str, Any]) -> list[dict[str, Any]]:
    """The table's rows of a part."""
    return [
        {
            "id": f"{cut.file.id}:{ordinal}",
            "file_id": cut.file.id,
            "file": cut.file.name,
            "ordinal": ordinal,
            "text": chunk.text,
            "context": chunk.context,
            "searched": chunk.searched,
            "page": chunk.page,
            "start": cut.part.characters + chunk.start,
            "end": cut.part.characters + chunk.end,
            "hash": digest,
            "vector": vectors[digest],
        }
        for ordinal, (digest, chunk) in enumerate(zip(cut.hashes, cut.chunks, strict=True), cut.part.chunks)
    ]


def _part_key(file: KnowledgeFile) -> str:
    return f"part {file.id}"
