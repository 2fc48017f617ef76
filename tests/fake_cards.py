"""A stand-in for NVIDIA's driver tool: what a machine with cards says of them, on one that has none."""

from __future__ import annotations

import os
from pathlib import Path


def path_with_cards(folder: Path, *free_mb: int) -> str:
    """PATH with an nvidia-smi in front that reports cards of so many MiB, all of them free."""
    tool = folder / "nvidia-smi"
    lines = [f"echo 'NVIDIA Test {mb}, {mb}, {mb}'" for mb in free_mb]
    tool.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="ascii")
    tool.chmod(0o755)
    return os.pathsep.join([str(folder), os.environ["PATH"]])
