"""The process that reads knowledge bases: `python -m ninestory.serving.knowledge_process PARENT HOME`.

One line of JSON in, one out; LanceDB lives here and never in the gateway. Tables stay open between questions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from ninestory.core.errors import NinestoryError
from ninestory.core.paths import Home
from ninestory.floors.retrieval import ChunkReader, SearchOptions, open_by_id
from ninestory.floors.retrieval import search_passages as search

OPEN_BASES = 16  # each holds a database and a table with their descriptors


class Readers:
    """The open knowledge bases of a home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._open: dict[str, ChunkReader] = {}

    def answer(self, call: dict[str, Any]) -> Any:
        """One call: "search", or what gives a file's passages."""
        reader = self._reader(call["base"])
        if call["op"] == "search":
            import numpy as np

            options = SearchOptions(**call["options"])
            vector = np.array(call["vector"], dtype=np.float32)
            return [asdict(hit) for hit in search(reader, call["question"], vector, options)]
        if not reader.refresh():
            return []
        ways: dict[str, Callable[[str, int, int], list[dict[str, Any]]]] = {
            "passages": reader.of_file,
            "of_pages": reader.of_pages,
            "of_span": reader.of_span,
        }
        return ways[call["op"]](call["file"], call["first"], call["last"])

    def _reader(self, base_id: str) -> ChunkReader:
        """The open base, made the newest of those kept; the one not asked for the longest makes room."""
        reader = self._open.pop(base_id, None)
        if reader is not None and not reader.base.folder.exists():
            reader.base.close()
            reader = None
        self._open[base_id] = reader = reader or ChunkReader(open_by_id(self._home, base_id))
        if len(self._open) > OPEN_BASES:
            self._open.pop(next(iter(self._open))).base.close()
        return reader


def bound_memory() -> None:
    """Before the first table is opened: what searches free goes back, or 100,000 passages hold 30 MB more."""
    from ninestory.core.memory import fix_malloc_thresholds, share_malloc_arenas

    share_malloc_arenas(2)
    fix_malloc_thresholds()


def main() -> None:
    from ninestory.core.process import die_with_parent

    die_with_parent(int(sys.argv[1]))
    bound_memory()
    readers = Readers(Home(Path(sys.argv[2])))
    for line in sys.stdin.buffer:
        try:
            answer: dict[str, Any] = {"result": readers.answer(orjson.loads(line))}
        except NinestoryError as error:
            answer = {"error": error.as_dict()}
        except Exception as error:
            import traceback

            traceback.print_exception(error, file=sys.stderr)
            answer = {"error": NinestoryError(f"{type(error).__name__}: {error}").as_dict()}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
