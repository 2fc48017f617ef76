"""The curves of a run for TensorBoard, beside the JSON log: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class TensorBoardLog:
    """Scalars by step below `folder`; nothing without a folder, or where tensorboard is not installed.

    Steps from `first_step` on are shown as they are written now, not as a process before this one wrote them.
    """

    def __init__(self, folder: Path | None = None, first_step: int = 1) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ModuleNotFoundError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, kind: str, step: int, **values: float) -> None:
        """One point of each curve `kind/name`."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
