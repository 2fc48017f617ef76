"""The first ingest converts the embedding model: its word table of 384 MB in float32 is never held whole."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto
from onnxruntime.quantization.quant_utils import quantize_data

from ninestory.models.convert.bert_onnx import quantized_rows

ROWS, WIDTH, BLOCK = 65_536, 128, 4096


def blocks() -> Iterator[Any]:
    generator = np.random.default_rng(0)
    for _ in range(0, ROWS, BLOCK):
        yield generator.standard_normal((BLOCK, WIDTH), dtype=np.float32)


def test_a_word_table_is_quantised_a_block_at_a_time() -> None:
    tracemalloc.start()
    table, scale, zero_point = quantized_rows(blocks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * ROWS * WIDTH  # in float32 alone it would be four bytes a value
    whole = np.concatenate(list(blocks()))
    expected_zero, expected_scale, expected = quantize_data(whole, TensorProto.UINT8, symmetric=False)[-3:]
    assert (float(scale), int(zero_point)) == (float(expected_scale), int(expected_zero))
    assert np.array_equal(table, np.asarray(expected).reshape(table.shape))
