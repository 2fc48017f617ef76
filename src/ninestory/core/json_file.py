"""JSON files of a published model: one object of a bounded size, or an error that says what lies there instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged

MAX_JSON_BYTES = 64 << 20  # the tokenizer.json of a vocabulary of 250,000 pieces has 24 MB
_LFS = b"version https://git-lfs"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file.

    Raises:
        Damaged: a Git LFS pointer, a file of more than `MAX_JSON_BYTES`, no JSON, or no object.
    """
    if not path.is_file():
        return {}
    refuse_pointer(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        table = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError(f"it holds a {type(table).__name__}")
    except (ValueError, RecursionError) as error:
        raise Damaged(
            f"{path.name} is no JSON object: {error}.", hint="Download it again.", hint_zh="请重新下载。"
        ) from error
    return table


def refuse_pointer(path: Path) -> None:
    """A clone without git-lfs leaves a text of three lines in the place of each large file.

    Raises:
        Damaged: `path` is such a text.
    """
    with path.open("rb") as file:
        if file.read(len(_LFS)) != _LFS:
            return
    raise Damaged(
        f"{path.name} is a Git LFS pointer, not the file itself.",
        hint="Run 'git lfs pull' in the clone, or take the model by 'ninestory pull'.",
        hint_zh="请在克隆目录运行 git lfs pull，或用 ninestory pull 下载。",
        code="lfs_pointer",
    )
