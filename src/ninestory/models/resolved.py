"""What resolving a reference gives: verified files and what is known about them. Plain data, sent to workers as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ninestory.core.tasks import Task
from ninestory.models.kinds.contents import ModelFormat


@dataclass(frozen=True, kw_only=True)
class ResolvedAdapter:
    name: str
    path: Path
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model that is on this machine and has passed `verify`.

    Attributes:
        reference: as the user wrote it (canonical form).
        path: the `.gguf`/`.pth` file, or the checkpoint directory. For remote models: None.
        format: which reader opens it.
        architecture: "llama", "bert", "chatglm", "rwkv7", … as the checkpoint itself says.
        tasks: what it can be asked to do, the main one first; none for an adapter alone.
        context: tokens it was made for.
        total_bytes: size of the weights on disk.
        sha256: of the weights where known (starter packages, hub metadata), else "".
        system: catalogue name whose settings apply, or None when the model is not in the catalogue.
        template: id of a prompt template from the catalogue, or "checkpoint", or "" for none.
        rendered: a sample prompt as that template wrote it when the adapter was trained, or the text of a checkpoint's
            own template; "" where nobody kept one.
        licence: SPDX id or the publisher's name for it, "" when unknown.
        home: the home it was resolved in; what is derived from its files is kept in that home's cache.
        notes: choices made while resolving, shown to the user.
    """

    reference: str
    path: Path | None
    format: ModelFormat
    architecture: str
    tasks: tuple[Task, ...]
    context: int
    total_bytes: int = 0
    sha256: str = ""
    system: str | None = None
    template: str = ""
    rendered: str = ""
    licence: str = ""
    adapters: list[ResolvedAdapter] = field(default_factory=list)
    endpoint: str = ""  # remote: base URL
    home: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task | Literal["other"]:
        """What it is mainly for; "other" for what no task needs by itself."""
        return self.tasks[0] if self.tasks else "other"
