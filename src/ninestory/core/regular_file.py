"""Opening a path that a user, a folder or an archive names as data: regular files only.

A FIFO would wait for a writer for ever, and a device has no end. The descriptor is opened without waiting and looked at
afterwards, so that the file cannot be exchanged between the look and the reading.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO, TextIO

from ninestory.core.errors import InvalidRequest


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes.

    Raises:
        InvalidRequest: it is a directory, FIFO, socket or device. OSError: it does not exist, or may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if path.exists() and not path.is_file():  # a socket cannot even be opened
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return os.fdopen(descriptor, "rb")


def open_regular_text(path: Path, encoding: str = "utf-8", newline: str | None = None) -> TextIO:
    """Open a regular file for reading text; `newline` is as in `open`. Raises what `open_regular` raises."""
    return io.TextIOWrapper(open_regular(path), encoding=encoding, newline=newline)


def read_regular_text(path: Path) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        UnicodeDecodeError: it is in another encoding. What `open_regular` raises.
    """
    with open_regular_text(path) as file:
        return file.read()


def _not_regular(path: Path) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is a directory, pipe, socket or device; expected a regular file.",
        hint="Write its content to a file and give that.",
        hint_zh="请先将内容写入普通文件。",
        code="not_a_regular_file",
    )
