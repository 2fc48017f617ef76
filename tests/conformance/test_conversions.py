"""What is converted from the original code's checkpoints gives what the original code gave."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ninestory.models.convert.chatglm import quantize_chatglm

from .conftest import FIXTURES


@pytest.mark.parametrize("bits", [4, 8])
def test_chatglms_published_layout_is_made_bit_for_bit(bits: int, tmp_path: Path) -> None:
    source = tmp_path / "chatglm"
    source.mkdir()
    for name in ("config.json", "model.safetensors", "ice_text.model"):
        shutil.copy(FIXTURES / "chatglm" / name, source)
    made = load_file(quantize_chatglm(source, tmp_path / "made", bits) / "model.safetensors")
    expected = load_file(FIXTURES / "chatglm" / f"model_int{bits}.safetensors")
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        assert made[name].dtype == value.dtype and np.array_equal(made[name], value), name
