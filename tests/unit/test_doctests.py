"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "ninestory.models.reference",
        "ninestory.tokenizers.chatglm",
        "ninestory.library",
        pytest.param("ninestory.floors.chat.model", marks=pytest.mark.starter),
    ],
)
def test_examples(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NINESTORY_HOME", str(tmp_path))
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted and not result.failed
