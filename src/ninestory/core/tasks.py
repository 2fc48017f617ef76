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

# The command that uses a model for a task.
VERBS: dict[Task, str] = {
    "chat": "chat",
    "completion": "chat",
    "score": "evaluate",
    "embedding": "kb",
    "rerank": "kb",
    "caption": "look",
    "match": "look",
    "image": "draw",
    "upscale": "draw",
    "transcribe": "transcribe",
    "align": "align",
    "identify_language": "identify",
    "speak": "speak",
}
