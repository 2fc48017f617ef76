"""What must stand in the environment before torch is imported. Knows nothing of torch."""

from __future__ import annotations

import os
import sys


def prepare() -> None:
    """Ask MKL for sums that do not depend on a matrix's number of rows.

    Intel's library reads this once, and it holds for the whole process; elsewhere it changes nothing. Without the
    packed linears of this runtime it makes single rows slow, so it is set only by who loads a model here.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
