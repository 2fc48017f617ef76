"""JSON files of a published model: one object of bounded size, or an error that describes the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged

MAX_JSON_BYTES = 64 << 20  # the tokenizer.json of a vocabulary of 250,000 pieces has 24 MB
_LFS = b"version https://git-lfs"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} if the file does not exist.

    Raises:
        Damaged: the file is a Git LFS pointer, exceeds `MAX_JSON_BYTES`, or is not a JSON object.
    """
    if not path.is_file():
        return {}
    refuse_pointer(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes; expected at most {MAX_JSON_BYTES}")
        table = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError(f"it is a {type(table).__name__}")
    except (ValueError, RecursionError) as error:
        raise Damaged(
            f"{path.name} is not a JSON object: {error}.", hint="Download it again.", hint_zh="请重新下载。"
        ) from error
    return table


def refuse_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer, which a clone without git-lfs has in place of each large file.

    Raises:
        Damaged: `path` is a pointer.
    """
    with path.open("rb") as file:
        if file.read(len(_LFS)) != _LFS:
            return
    raise Damaged(
        f"{path.name} is a Git LFS pointer, not the file itself.",
        hint="Run 'git lfs pull' in the clone, or download the model with 'ninestory pull'.",
        hint_zh="请在克隆目录运行 git lfs pull，或用 ninestory pull 下载。",
        code="lfs_pointer",
    )
