"""Reading files in a child process: one that crashes a library, hangs it or eats memory fails alone.

`python -m ninestory.floors.retrieval.parsing.isolated BYTES` is that process, with a cap on its memory: a line of JSON
in, a line of JSON out.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ninestory.core.errors import Damaged, NinestoryError, TimedOut, from_dict
from ninestory.core.machine import available_bytes
from ninestory.floors.retrieval.document import Block, Document

LEAST_MEMORY_BYTES, MOST_MEMORY_BYTES = 768 << 20, 4 << 30  # reading a scan by OCR takes 500 MB
_MEMORY_SHARE = 4  # a quarter of what is free when the process starts
TIMEOUT_SECONDS = 600.0
_LOOK_SECONDS = 0.5  # between two looks whether the work was cancelled


class ParserProcess:
    """One child, started with the first file and again after one that took it down."""

    def __init__(self, timeout: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ParserProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def parse(self, path: Path, name: str) -> Document:
        """A document whole; of large plain text its first part."""
        return self.parse_part(path, name, 0)[0]

    def parse_part(
        self, path: Path, name: str, position: int, look: Callable[[], None] | None = None
    ) -> tuple[Document, int | None]:
        """`parsing.parse_part` over there.

        Args:
            look: called every half second while the file is read; what it raises ends the reading.

        Raises:
            Damaged: the parser died of this file. TimedOut: it took too long. Whatever `parse_part` raises.
        """
        answer = self.ask("part", path, name, position, look=look)
        blocks = [Block(*block) for block in answer["blocks"]]
        return Document(answer["text"], blocks, answer["notes"]), answer["next"]

    def ask(
        self, operation: str, path: Path, name: str, *arguments: Any, look: Callable[[], None] | None = None
    ) -> Any:
        """One of `_OPERATIONS` over there; what it gives back, as plain data. `look` is as in `parse_part`.

        Raises:
            Damaged: the process died of this file. TimedOut: it took too long. Whatever the operation raises.
        """
        child = self._running()
        assert child.stdin is not None and child.stdout is not None
        line = b""
        with contextlib.suppress(BrokenPipeError):  # it died before it was asked
            child.stdin.write(json.dumps([operation, str(path), name, *arguments]).encode() + b"\n")
            child.stdin.flush()
            self._wait_for_answer(child.stdout, name, look)
            line = child.stdout.readline()
        if not line:
            code = child.wait()
            self._child = None
            raise Damaged(
                f"Reading {name} ended its process (status {code}): out of memory, or a file that breaks the reader.",
                hint="Convert it to another format, or split it.",
                hint_zh="请转换为其他格式或拆分该文件。",
                code="parser_died",
            )
        answer = json.loads(line)
        if "error" in answer:
            raise from_dict(answer["error"])
        return answer["result"]

    def _wait_for_answer(self, answers: IO[bytes], name: str, look: Callable[[], None] | None) -> None:
        """Return when there is something to read; end the process when the time is up or `look` raises."""
        end = time.monotonic() + self._timeout
        try:
            while not select.select([answers], [], [], min(_LOOK_SECONDS, max(end - time.monotonic(), 0)))[0]:
                if look is not None:
                    look()
                if time.monotonic() >= end:
                    raise TimedOut(
                        f"{name} was not read within {self._timeout:g} s.", hint="Split it.", hint_zh="请拆分该文件。"
                    )
        except BaseException:
            self.close()  # its answer would be taken for the next file's
            raise

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            command = [sys.executable, "-m", "ninestory.floors.retrieval.parsing.isolated"]
            command.append(str(memory_cap(available_bytes())))
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._child

    def close(self) -> None:
        """End the process; a later call starts another."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def memory_cap(free_bytes: int) -> int:
    """The most memory that the process may take for its data, by what is free when it starts."""
    return min(max(free_bytes // _MEMORY_SHARE, LEAST_MEMORY_BYTES), MOST_MEMORY_BYTES)


def _part(path: Path, name: str, position: int) -> dict[str, Any]:
    from ninestory.floors.retrieval.parsing import parse_part

    document, following = parse_part(path, name, position)
    return {
        "text": document.text,
        "blocks": document.blocks,
        "notes": document.notes,
        "next": following,
    }


def _page(path: Path, name: str, page: int, passages: list[str]) -> dict[str, Any]:
    from ninestory.floors.retrieval.source import page_of

    return page_of(path, name, page, passages)


def _picture(path: Path, name: str, page: int) -> str:
    from ninestory.floors.retrieval.source import picture_of

    return base64.b64encode(picture_of(path, name, page)).decode()


def _text(path: Path, name: str, near: int) -> dict[str, Any]:
    from ninestory.floors.retrieval.source import text_of

    return text_of(path, name, near)


_OPERATIONS: dict[str, Callable[..., Any]] = {"part": _part, "page": _page, "picture": _picture, "text": _text}


def _answer(operation: str, path: str, name: str, *arguments: Any) -> dict[str, Any]:
    try:
        return {"result": _OPERATIONS[operation](Path(path), name, *arguments)}
    except NinestoryError as error:
        return {"error": error.as_dict()}
    except MemoryError:
        os._exit(137)
    except Exception as error:  # a fault of a parser on a file nobody foresaw; its name goes into the report
        failure = Damaged(f"{name} cannot be read: {type(error).__name__}: {error}.", code="parser_failed")
        return {"error": failure.as_dict()}


def _end_with_parent(parent: int) -> None:
    """End this process when the one that asks was killed, also in the middle of a file that takes long."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def main() -> None:
    cap = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))  # of address space libraries map much and use little
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the document, and nobody would own it
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    for line in sys.stdin.buffer:
        answers.write(json.dumps(_answer(*json.loads(line))).encode("utf-8", "surrogatepass") + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
