"""What a model can be asked to do: one closed list, shared by models, runtimes, floors and the API."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal[
    "chat",
    "completion",
    "embedding",
    "rerank",
    "score",
    "caption",
    "match",
    "image",
    "upscale",
    "transcribe",
    "align",
    "identify_language",
    "speak",
]
TASKS: tuple[Task, ...] = get_args(Task)
