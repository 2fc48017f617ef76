"""Opening a path that a user, a folder or an archive names as data: regular files only.

A FIFO would wait for a writer for ever, and a device has no end. The descriptor is opened without waiting and looked at
afterwards, so that the file cannot be exchanged between the look and the reading.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ninestory.core.errors import InvalidRequest, NotFound


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes.

    Raises:
        NotFound: the path does not exist. InvalidRequest: it is a directory, FIFO, socket or device.
        OSError: it may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist.", hint="Check the path.", hint_zh="请检查路径。") from error
    except OSError as error:
        if path.exists() and not path.is_file():  # a socket cannot even be opened
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return os.fdopen(descriptor, "rb")


def check_regular(path: Path) -> None:
    """Raise what `open_regular` raises, for a reader that takes a path instead of an open file."""
    open_regular(path).close()


def _not_regular(path: Path) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is a directory, pipe, socket or device; expected a regular file.",
        hint="Write its content to a file and give that.",
        hint_zh="请先将内容写入普通文件。",
        code="not_a_regular_file",
    )
