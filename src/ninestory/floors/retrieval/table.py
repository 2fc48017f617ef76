"""The passages of a knowledge base in LanceDB: text, vector and full-text index; one writer, readers pinned.

Readers stay on the version published last: rows not yet indexed would make each search scan them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ninestory.core.errors import Damaged, DiskFull
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, Published

INDEX_FROM_ROWS = 20_000  # below, an exact scan is as quick and misses nothing
_PARTITION_ROWS = 800
_BITS, _REFINED = (
    4,
    3,
)  # the index finds by 4 bits a dimension, three times the rows wanted; the vectors themselves judge
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the engine names them in words only
_KEEP_OLD_VERSIONS = timedelta(minutes=10)  # a search that began on the version before must end
_FOREVER = timedelta(days=3650)
_MOST_OF_A_FILE = 10_000  # passages given back at once
_INDEX_CACHE, _METADATA_CACHE = 256 << 20, 64 << 20
COLUMNS = ["id", "file_id", "file", "ordinal", "text", "context", "page", "start", "end", "hash"]


def _lancedb() -> Any:
    os.environ.setdefault("LANCE_LOG", "error")  # it warns on every search otherwise
    import lancedb

    return lancedb


def _connect(folder: Path) -> Any:
    lancedb = _lancedb()
    session = lancedb.Session(index_cache_size_bytes=_INDEX_CACHE, metadata_cache_size_bytes=_METADATA_CACHE)
    return lancedb.connect(folder, session=session)


@contextmanager
def _named_faults(base: KnowledgeBase) -> Iterator[None]:
    """A full disk and a damaged table have names; what else the engine raises is a fault of ours."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        words = str(error)
        if getattr(error, "errno", None) in _NO_ROOM or any(f"(os error {number})" in words for number in _NO_ROOM):
            raise DiskFull(
                f"No room left on the disk for {base.name or base.id}; it answers from its last good version.",
                hint="Free some space and run the same command again.",
                hint_zh="请清理磁盘后重新运行同一命令。",
            ) from error
        if any(
            sign in words.lower() for sign in ("corrupt", "not found", "magic", "invalid", "checksum", "unexpected")
        ):
            raise Damaged(
                f"The table of {base.name or base.id} is damaged: {words.splitlines()[0][:200]}",
                hint=f"'ninestory kb sync {base.name or base.id} --rebuild' makes it anew from the documents.",
                hint_zh=f"运行 ninestory kb sync {base.name or base.id} --rebuild 可由文档重建。",
                code="damaged_knowledge_base",
            ) from error
        raise


class ChunkWriter:
    """Writes passages; nothing is seen by readers before `publish`. Hold the base's lock."""

    def __init__(self, base: KnowledgeBase, dimensions: int) -> None:
        self._base = base
        self.dimensions = dimensions
        with _named_faults(base):
            connection = _connect(base.table_path)
            names = connection.list_tables().tables
            self._table = (
                connection.open_table("chunks")
                if "chunks" in names
                else connection.create_table("chunks", schema=_schema(dimensions))
            )

    @property
    def version(self) -> int:
        return int(self._table.version)

    @property
    def rows(self) -> int:
        return int(self._table.count_rows())

    def delete_files(self, file_ids: Sequence[str]) -> None:
        if file_ids:
            with _named_faults(self._base):
                self._table.delete(f"file_id IN ({quoted(file_ids)})")

    def delete_from(self, file_id: str, ordinal: int) -> None:
        """A file's passages from `ordinal` on."""
        with _named_faults(self._base):
            self._table.delete(f"file_id IN ({quoted([file_id])}) AND ordinal >= {int(ordinal)}")

    def add(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            with _named_faults(self._base):
                self._table.add(rows)

    def vectors(self, hashes: Sequence[str]) -> dict[str, list[float]]:
        """Vectors of passages that are here already, by the hash of what was embedded."""
        if not hashes or not self.rows:
            return {}
        query = self._table.search().where(f"hash IN ({quoted(sorted(set(hashes)))})").select(["hash", "vector"])
        return {row["hash"]: row["vector"] for row in query.limit(self.rows).to_list()}

    def publish(self) -> int:
        """Index what was written, make it what readers see, and drop versions nobody reads. Returns the version."""
        table = self._table
        with _named_faults(self._base):
            if self.rows:
                self._index()
            table.optimize(cleanup_older_than=_FOREVER)
            self._base.publish(self.version, self.rows)
            table.optimize(cleanup_older_than=_KEEP_OLD_VERSIONS)
            self._base.publish(self.version, self.rows)
        return self.version

    def _index(self) -> None:
        from lancedb.index import FTS, BTree, IvfFlat, IvfRq

        present = {index.name for index in self._table.list_indices()}
        if "searched_idx" not in present:
            # The default tokenizer finds nothing in Chinese; icu/split needs no download.
            self._table.create_index(
                "searched", config=FTS(base_tokenizer="icu/split", stem=False, remove_stop_words=False)
            )
        if "file_id_idx" not in present:
            self._table.create_index("file_id", config=BTree())
        if "vector_idx" not in present and self.rows >= INDEX_FROM_ROWS:
            kind: dict[str, Any] = {"distance_type": "dot", "num_partitions": max(self.rows // _PARTITION_ROWS, 1)}
            small = self.dimensions % 8 == 0  # what the small index asks for; the other holds every vector in memory
            self._table.create_index("vector", config=IvfRq(**kind, num_bits=_BITS) if small else IvfFlat(**kind))


class ChunkReader:
    """Searches the published version; `refresh` moves on to a newer one."""

    def __init__(self, base: KnowledgeBase) -> None:
        self.base = base
        self._table: Any = None
        self.published: Published | None = None

    def refresh(self) -> bool:
        """Go to what is published now; False while nothing is."""
        published = self.base.published
        if published is not None and published != self.published:
            with _named_faults(self.base):
                table = _connect(self.base.folder / published.table).open_table("chunks")
                table.checkout(published.version)
                self._table, self.published = table, published
        return self.published is not None

    def nearest(self, vector: NDArray[np.float32], limit: int, where: str | None) -> list[dict[str, Any]]:
        """The rows of the best cosines, best first, `cosine` among their columns.

        Args:
            vector: unit vector [d].
        """
        with _named_faults(self.base):
            query = self._table.search(vector, vector_column_name="vector").distance_type("dot").nprobes(20)
            query = query.refine_factor(_REFINED).select([*COLUMNS, "_distance"]).limit(limit)
            rows = (query.where(where, prefilter=True) if where else query).to_arrow().to_pylist()
        return [{**row, "cosine": 1 - row["_distance"]} for row in rows]

    def matching(self, words: str, vector: NDArray[np.float32], limit: int, where: str | None) -> list[dict[str, Any]]:
        """The rows of the best BM25 scores, best first, with their cosines to `vector`."""
        return self._full_text(words, "OR", vector, limit, where)

    def matching_all(
        self, words: str, vector: NDArray[np.float32], limit: int, where: str | None
    ) -> list[dict[str, Any]]:
        """As `matching`, of the rows that hold every word."""
        return self._full_text(words, "AND", vector, limit, where)

    def _full_text(
        self, words: str, operator: str, vector: NDArray[np.float32], limit: int, where: str | None
    ) -> list[dict[str, Any]]:
        with _named_faults(self.base):
            queries = _lancedb().query
            # a plain string in quotation marks would be a phrase, which needs another index
            match = queries.MatchQuery(words, "searched", operator=queries.FullTextOperator(operator))
            query = self._table.search(match, query_type="fts")
            query = query.select([*COLUMNS, "vector", "_score"]).limit(limit)
            found = (query.where(where, prefilter=True) if where else query).to_arrow()
        return _with_cosines(found, vector)

    def of_file(self, file_id: str, first: int = 0, count: int = 1000) -> list[dict[str, Any]]:
        """A file's passages in order, from ordinal `first`."""
        return self._in_order(file_id, f"ordinal >= {int(first)} AND ordinal < {int(first + count)}")

    def of_pages(self, file_id: str, first: int, last: int) -> list[dict[str, Any]]:
        """A file's passages that begin on the pages `first` to `last`, in order."""
        return self._in_order(file_id, f"page >= {int(first)} AND page <= {int(last)}")

    def of_span(self, file_id: str, start: int, end: int) -> list[dict[str, Any]]:
        """A file's passages that share a character with `start` to `end`, in order."""
        return self._in_order(file_id, f"start < {int(end)} AND `end` > {int(start)}")

    def _in_order(self, file_id: str, condition: str) -> list[dict[str, Any]]:
        with _named_faults(self.base):
            where = f"file_id IN ({quoted([file_id])}) AND {condition}"
            rows = self._table.search().where(where).select(COLUMNS).limit(_MOST_OF_A_FILE).to_list()
        return sorted(rows, key=lambda row: row["ordinal"])

    def all_rows(self, columns: Sequence[str]) -> Any:
        """Some columns of everything, as an Arrow table."""
        with _named_faults(self.base):
            return self._table.search().select(list(columns)).limit(self._table.count_rows() or 1).to_arrow()


def _with_cosines(found: Any, vector: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The rows of an Arrow table, `cosine` to a unit vector in the place of `vector` (as lists they cost more)."""
    vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, len(vector))
    rows = found.drop_columns(["vector"]).to_pylist()
    return [{**row, "cosine": float(cosine)} for row, cosine in zip(rows, vectors @ vector, strict=True)]


def quoted(values: Sequence[str]) -> str:
    """A list of SQL strings."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def _schema(dimensions: int) -> Any:
    import pyarrow as pa

    text, whole = pa.string(), pa.int32()
    return pa.schema(
        [
            pa.field("id", text),
            pa.field("file_id", text),
            pa.field("file", text),
            pa.field("ordinal", whole),
            pa.field("text", text),
            pa.field("context", text),
            pa.field("searched", text),
            pa.field("page", whole, nullable=True),
            pa.field("start", whole),
            pa.field("end", whole),
            pa.field("hash", text),
            pa.field("vector", pa.list_(pa.float32(), dimensions)),
        ]
    )
