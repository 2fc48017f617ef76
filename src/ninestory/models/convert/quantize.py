"""Quantisation to GGUF types, by ggml through ctypes or by the gguf package; both give the same bytes.

llama.cpp's library is an extension module that is installed anyway and exports `ggml_quantize_chunk`; it is twice as
fast as numpy and knows the K-quants. A type that ggml would abort the process on (some IQ types without an importance
matrix) is refused before; the others are tried on a few rows in a child process first, so that an abort kills that.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, InvalidRequest, Unsupported
from ninestory.models.gguf_reader import TENSOR_TYPES

# type → (number of LLAMA_FTYPE in the file's header, what takes its place where a row is no multiple of 256)
KINDS: dict[str, tuple[int, str]] = {
    "F32": (0, ""), "F16": (1, ""), "BF16": (32, ""), "Q8_0": (7, ""), "Q5_1": (9, ""), "Q5_0": (8, ""),
    "Q4_1": (3, ""), "Q4_0": (2, ""), "IQ4_NL": (25, ""), "Q6_K": (18, "Q8_0"), "Q5_K": (17, "Q5_1"),
    "Q4_K": (15, "Q5_0"), "Q3_K": (12, "Q4_0"), "Q2_K": (10, "Q4_0"),
}  # fmt: skip
SMALL = {"Q4_1", "Q4_0", "IQ4_NL", "Q4_K", "Q3_K", "Q2_K"}  # embedding and head stay Q8_0 beside these
_IDS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_NUMPY = {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"}  # types that the gguf package can make too
_PROBED_ROWS, _PROBED_COLUMNS, _PROBE_SECONDS = 4, 512, 60
_PROBE = """
import numpy as np, sys
from ninestory.models.convert.quantize import by_ggml
rows = np.random.default_rng(0).standard_normal(({rows}, {columns})).astype(np.float32)
sys.stdout.buffer.write(by_ggml(rows, "{kind}"))
"""


def check_kind(kind: str) -> None:
    """Check that a type is supported, before a file is started.

    Raises:
        InvalidRequest: no such type. Unsupported: ggml needs an importance matrix for it, is not there, or fails.
    """
    if kind not in _IDS or (kind not in KINDS and not kind.startswith("IQ")):
        raise InvalidRequest(
            f"The quantisation type {kind!r} is unknown.",
            hint=f"Types: {', '.join(KINDS)}.",
            hint_zh=f"可选类型：{'、'.join(KINDS)}。",
            param="quant",
        )
    if kind not in KINDS or (kind not in ("F32", "F16", "BF16", *_NUMPY) and not _survives(kind)):
        raise Unsupported(
            f"{kind} is not supported: it needs an importance matrix, or the installed ggml cannot quantise to it.",
            hint="Use Q8_0, or IQ4_NL for four bits.",
            hint_zh="请使用 Q8_0，四位可用 IQ4_NL。",
            param="quant",
        )


def kind_of_rows(kind: str, columns: int) -> str:
    """The type for rows of `columns` values: `kind`, or its fallback if the row does not divide into blocks.

    >>> kind_of_rows("Q4_K", 4096), kind_of_rows("Q4_K", 576), kind_of_rows("Q8_0", 40)
    ('Q4_K', 'Q5_0', 'F16')
    """
    block = TENSOR_TYPES[_IDS[kind]][1]
    if columns % block == 0:
        return kind
    return kind_of_rows(KINDS[kind][1], columns) if KINDS[kind][1] else "F16"


def nbytes_of(shape: tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor of this type."""
    _, block, block_bytes = TENSOR_TYPES[_IDS[kind]]
    count = 1
    for n in shape:
        count *= n
    return count // block * block_bytes


def encode(values: Any, kind: str, name: str = "") -> Any:
    """Quantise float32 rows [rows, columns] to `kind`; the columns must divide into its blocks.

    Raises:
        Damaged: a value is NaN or infinite, or too large for float16.
    """
    import numpy as np

    if not np.isfinite(values).all():
        raise _not_finite(name)
    if kind == "F32":
        return np.ascontiguousarray(values)
    if kind == "F16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise _not_finite(name)
        return half
    if kind in _NUMPY and not _agrees():
        import gguf

        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    return by_ggml(values, kind)


def by_ggml(values: Any, kind: str) -> bytes:
    """Quantise with ggml, in this process."""
    import numpy as np

    library = _library()
    if library is None or library.ggml_quantize_requires_imatrix(_IDS[kind]):
        raise Unsupported(f"{kind} is not supported by the installed ggml.", param="quant")
    rows, columns = values.shape
    values = np.ascontiguousarray(values, dtype=np.float32)
    out = np.empty(nbytes_of(values.shape, kind), np.uint8)
    source = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    written = library.ggml_quantize_chunk(_IDS[kind], source, out.ctypes.data, 0, rows, columns, None)
    if written != out.nbytes:
        raise Unsupported(f"ggml wrote {written} bytes of {kind}; expected {out.nbytes}.", param="quant")
    return out.tobytes()


@lru_cache(maxsize=1)
def _library() -> Any:
    """Load ggml from llama.cpp's extension module, or None if it does not export the function."""
    found = importlib.util.find_spec("xllamacpp")
    folders = found.submodule_search_locations if found else None
    for path in sorted(Path(folders[0]).glob("xllamacpp*.so")) if folders else []:
        try:
            library = ctypes.CDLL(str(path))
            library.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
            library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
            library.ggml_quantize_chunk.restype = ctypes.c_size_t
            # type, values, out, first row's start, rows, columns, importance matrix or NULL
            library.ggml_quantize_chunk.argtypes = [
                ctypes.c_int, ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                ctypes.c_int64, ctypes.c_void_p,
            ]  # fmt: skip
        except (OSError, AttributeError):
            continue
        return library
    return None


@lru_cache(maxsize=1)
def _agrees() -> bool:
    """Whether ggml gives the same bytes as the gguf package (detects a changed calling convention)."""
    import gguf
    import numpy as np

    if _library() is None:
        return False
    rows = np.random.default_rng(0).standard_normal((_PROBED_ROWS, _PROBED_COLUMNS)).astype(np.float32)
    expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
    return bool(np.array_equal(np.frombuffer(by_ggml(rows, "Q8_0"), np.uint8), expected.reshape(-1)))


@lru_cache(maxsize=16)
def _survives(kind: str) -> bool:
    """Whether a child process can quantise a few rows to this type."""
    library = _library()
    if library is None or library.ggml_quantize_requires_imatrix(_IDS[kind]):
        return False
    program = _PROBE.format(rows=_PROBED_ROWS, columns=_PROBED_COLUMNS, kind=kind)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=_PROBE_SECONDS, check=False)
    return done.returncode == 0 and len(done.stdout) == nbytes_of((_PROBED_ROWS, _PROBED_COLUMNS), kind)


def _not_finite(name: str) -> Damaged:
    return Damaged(
        f"The tensor {name!r} holds NaN, an infinity or a value beyond float16.",
        hint="The checkpoint is broken (an overflow in training, or a bad copy); or write --quant F32.",
        hint_zh="检查点已损坏（训练溢出或复制错误）；或改用 --quant F32。",
        code="not_finite",
    )
