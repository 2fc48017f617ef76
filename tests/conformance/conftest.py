"""Oracle data made by the original code of each system; another set with the same layout may be pointed at."""

from __future__ import annotations

import os
from pathlib import Path

FIXTURES = Path(os.environ.get("NINESTORY_FIXTURES", Path(__file__).parent.parent / "fixtures"))
