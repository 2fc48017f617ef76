"""What must stand in the environment before torch is imported. Knows nothing of torch."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ninestory.core.config import RuntimeSettings
from ninestory.core.extras import require
from ninestory.models.resolved import ResolvedModel

if TYPE_CHECKING:
    from ninestory.runtimes.torch.engine import TorchEngine


def open_checkpoint(model: ResolvedModel, settings: RuntimeSettings) -> TorchEngine:
    """Prepare this process for torch, then open a causal checkpoint.

    Raises:
        MissingExtra: torch is not installed. Otherwise as `open_engine`.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # cards are numbered as the driver's tool numbers them
    if not settings.fast:
        prepare()
    require("torch", "torch", "Running checkpoints in their original layout")
    from ninestory.runtimes.torch.open import open_engine

    return open_engine(model, settings)


def prepare() -> None:
    """Ask MKL for sums that do not depend on a matrix's number of rows.

    Intel's library reads this once, and it holds for the whole process; elsewhere it changes nothing. Without the
    packed linears of this runtime it makes single rows slow, so it is set only by who loads a model here.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
