"""Temporary files and folders that carry the id of the process that works on them, and are removed when it is gone.

Whoever makes one removes it; after a kill the next one to work in the same folder does.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path

_NAMES = (
    re.compile(r"\.[a-z]+-(\d+)-[0-9a-f]{16}(?:\.part)?"),  # of `temporary_name`
    re.compile(r"\..+\.(\d+)\.part"),  # of `core.paths.atomic_write`
)


def temporary_name(kind: str) -> str:
    """A new hidden name, such as `.new-4711-0123456789abcdef`; `kind` is of small letters."""
    return f".{kind}-{os.getpid()}-{secrets.token_hex(8)}"


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders directly below `folder` whose process is gone."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = next((match for name in _NAMES if (match := name.fullmatch(path.name))), None)
        if found is None or _is_alive(int(found[1])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process
        return True
    return True
