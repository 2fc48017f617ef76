"""The quantised types: ggml's bytes are the gguf package's, and what would end the process is refused before."""

from __future__ import annotations

import numpy as np
import pytest

from ninestory.core.errors import Damaged, InvalidRequest, Unsupported
from ninestory.models.convert import quantize
from ninestory.models.convert.quantize import KINDS, by_ggml, check_kind, encode, kind_of_rows, nbytes_of

ROWS = np.random.default_rng(0).standard_normal((7, 512)).astype(np.float32)


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_ggmls_bytes_are_the_gguf_packages(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = by_ggml(ROWS, kind)
    monkeypatch.setattr(quantize, "_agrees", lambda: False)  # as where llama.cpp's library exports no such function
    assert np.asarray(encode(ROWS, kind)).tobytes() == fast and len(fast) == nbytes_of(ROWS.shape, kind)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("F32", "F16", "BF16")])
def test_values_come_back_within_the_types_error(kind: str) -> None:
    import gguf

    check_kind(kind)
    raw = np.frombuffer(bytes(encode(ROWS, kind)), np.uint8)
    back = gguf.quants.dequantize(raw.reshape(ROWS.shape[0], -1), gguf.GGMLQuantizationType[kind])
    error = np.sqrt(np.mean((back - ROWS) ** 2))
    assert error < {"Q8_0": 0.01, "Q6_K": 0.03, "Q3_K": 0.25, "Q2_K": 0.5}.get(kind, 0.15)


def test_a_type_that_ends_its_process_ends_a_child_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "_PROBE", "import os  # {rows} {columns} {kind}\nos.abort()")
    quantize._survives.cache_clear()
    try:
        with pytest.raises(Unsupported, match="Q4_K is not supported") as caught:
            check_kind("Q4_K")
    finally:
        quantize._survives.cache_clear()
    assert "Q8_0" in caught.value.hint and "Q8_0" in caught.value.hint_zh


@pytest.mark.parametrize("kind", ["IQ2_XXS", "IQ2_XS", "IQ1_S"])
def test_types_that_want_an_importance_matrix_are_refused(kind: str) -> None:
    with pytest.raises(Unsupported, match="importance matrix"):
        check_kind(kind)
    with pytest.raises(Unsupported):
        by_ggml(ROWS, kind)


@pytest.mark.parametrize("kind", ["", "q8_0", "I32", "Q8_K"])
def test_what_is_no_type_is_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="is unknown"):
        check_kind(kind)


@pytest.mark.parametrize(("kind", "value"), [("Q8_0", np.nan), ("Q4_K", np.inf), ("F16", 1e6), ("F32", -np.inf)])
def test_values_that_no_type_holds_are_named(kind: str, value: float) -> None:
    broken = ROWS.copy()
    broken[3, 5] = value
    with pytest.raises(Damaged, match=r"blk\.0"):
        encode(broken, kind, "blk.0")


def test_every_fall_back_ends_in_a_type_that_fits() -> None:
    for kind in KINDS:
        for columns in (1, 32, 48, 256, 576):
            fitting = kind_of_rows(kind, columns)
            assert nbytes_of((1, columns), fitting) * 8 >= columns
