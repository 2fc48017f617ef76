"""The tool (plugin) protocol: a named, described, typed function that a model may call.

Used by tool calling in chat, MOSS's plugins and, later, agents. A tool is handed in by the caller; nothing here
decides what may run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tool:
    """One callable tool.

    Attributes:
        name: what the model writes, `[a-zA-Z0-9_-]{1,64}`.
        description: one or two sentences for the model.
        parameters: JSON schema of the arguments object.
        run: takes the arguments, returns text for the model; raises to report a failure to it.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    run: Callable[[dict[str, Any]], str]
