"""Weight deltas (tuned minus LLaMA), the release format of Vicuna, Alpaca and others: apply and create them.

Two rules are known for a tuned model with more rows in its embedding and head than LLaMA has (an added `[PAD]`):
FastChat takes zeros for the missing rows of the base (lm-sys/FastChat, model/apply_delta.py of v0), Alpaca the mean
of the rows there are (tatsu-lab/stanford_alpaca, weight_diff.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ninestory.core.errors import Damaged
from ninestory.core.progress import Progress, Silent
from ninestory.models.convert.checkpoint import (
    ITEM_BYTES,
    Checkpoint,
    Tensor,
    narrow,
    open_checkpoint,
    row_ranges,
    widen,
)
from ninestory.models.convert.safetensors_writer import (
    NewTensor,
    copy_companions,
    output_folder,
    write_json,
    write_shards,
)

NewRows = Literal["zero", "mean"]
_ROW_TENSORS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class DeltaFormat:
    """A project's delta rules: dtype of the arithmetic and of the result, and the values of missing rows."""

    dtype: str
    new_rows: NewRows


RECIPES = {"vicuna": DeltaFormat("F16", "zero"), "alpaca": DeltaFormat("F32", "mean")}


@dataclass(frozen=True)
class DeltaReport:
    """Result of a merge. `sum`: the float32 sum of all tensors' sums, in the order of the delta's files."""

    path: Path
    tensors: int
    sum: float
    added_rows: int


def apply_delta(
    base: Path,
    delta: Path,
    target: Path,
    recipe: DeltaFormat,
    *,
    expected_sum: float | None = None,
    tolerance: float = 0.01,
    progress: Progress | None = None,
) -> DeltaReport:
    """Write base + delta as the new folder `target`, with the delta's tokenizer.

    Args:
        expected_sum: what the publisher says that all values sum to (50637.1836 for Alpaca-7B).

    Raises:
        Damaged: names or shapes do not belong together, or another sum. Conflict: `target` exists.
    """
    return _combine(base, delta, target, recipe, 1, expected_sum, tolerance, progress or Silent())


def make_delta(
    base: Path, tuned: Path, target: Path, recipe: DeltaFormat, *, progress: Progress | None = None
) -> DeltaReport:
    """Write tuned - base as the new folder `target`; the inverse of `apply_delta` up to rounding.

    Raises:
        Damaged: names or shapes do not belong together. Conflict: `target` exists.
    """
    return _combine(base, tuned, target, recipe, -1, None, 0.0, progress or Silent())


def _combine(
    base: Path,
    other: Path,
    target: Path,
    recipe: DeltaFormat,
    sign: int,
    expected_sum: float | None,
    tolerance: float,
    progress: Progress,
) -> DeltaReport:
    raw, theirs = open_checkpoint(base), open_checkpoint(other)
    missing = [name for name in raw.tensors if name not in theirs.tensors and not name.endswith("inv_freq")]
    if missing:
        raise _mismatch(f"{other.name} has no tensor {missing[0]!r}, which {base.name} has")
    tensors = [_combined(raw, tensor, recipe, sign) for tensor in theirs.tensors.values()]
    job = {"base": raw.fingerprint(), "other": theirs.fingerprint(), "dtype": recipe.dtype, "rows": recipe.new_rows}
    metadata = {"made_by": "apply_delta" if sign > 0 else "make_delta", **job}
    with output_folder(target, metadata) as folder:
        files = write_shards(folder, tensors, metadata, progress)
        total = _sum(files, [t.name for t in tensors])
        if expected_sum is not None and not abs(total - expected_sum) <= tolerance:
            raise _wrong_sum(total, expected_sum, tolerance)
        write_json(folder / "config.json", _config(theirs.config or raw.config, recipe))
        if not copy_companions(theirs, folder):
            copy_companions(raw, folder)
    grown = [t.shape[0] - raw.tensors[t.name].shape[0] for t in tensors if _is_rows(t.name) and t.name in raw.tensors]
    return DeltaReport(target, len(tensors), total, max(grown, default=0))


def _combined(raw: Checkpoint, other: Tensor, recipe: DeltaFormat, sign: int) -> NewTensor:
    base = raw.tensor(other.name)
    rows = (other.shape[0] if other.shape else 0) - (base.shape[0] if base.shape else 0)
    grows = _is_rows(other.name) and rows > 0 and base.shape[1:] == other.shape[1:]
    if base.shape != other.shape and not grows:
        raise _mismatch(f"{other.name!r} has shape {other.shape}; expected the base's {base.shape}")

    def blocks() -> Iterator[Any]:
        added = _new_row(base, recipe) if grows else None
        for block in _pairs(base, other, added, recipe.dtype):
            left, right = block
            yield narrow(left + right, recipe.dtype) if sign > 0 else narrow(right - left, recipe.dtype)

    return NewTensor(other.name, recipe.dtype, other.shape, blocks)


def _pairs(base: Tensor, other: Tensor, added: Any, dtype: str) -> Iterator[tuple[Any, Any]]:
    """Yield float32 rows of both, each rounded to `dtype` first; `added` extends the base's last rows."""
    import numpy as np

    left, right = base.view(), other.view()
    if not other.shape:
        left, right = left[None], right[None]
    for start, stop in row_ranges(right.shape, 4):
        theirs = _rounded(right[start:stop], other, dtype)
        held = min(stop, left.shape[0])
        ours = _rounded(left[start:held], base, dtype)
        if held < stop:
            ours = np.concatenate([ours, np.broadcast_to(added, (stop - max(start, held), *added.shape))])
        yield ours, theirs


def _rounded(values: Any, tensor: Tensor, dtype: str) -> Any:
    wide = widen(values, tensor.dtype, tensor.name)
    return wide if dtype == "F32" or tensor.dtype == dtype else widen(narrow(wide, dtype), dtype)


def _new_row(base: Tensor, recipe: DeltaFormat) -> Any:
    """Value of the rows that the base's embedding or head lacks, float32 [width]."""
    import numpy as np

    total = np.zeros(base.shape[1:], np.float64)
    if recipe.new_rows == "mean":
        view = base.view()
        for start, stop in row_ranges(base.shape, 4):
            total += widen(view[start:stop], base.dtype).sum(0, dtype=np.float64)
        total /= base.shape[0]
    return widen(narrow(total.astype(np.float32), recipe.dtype), recipe.dtype)


def _sum(files: list[Path], order: list[str]) -> float:
    """Sum of all values: one float32 sum per tensor, accumulated in float32, as the published check does."""
    import numpy as np

    tensors = {name: t for file in files for name, t in open_checkpoint(file).tensors.items()}
    total = np.float32(0)
    for name in order:
        tensor = tensors[name]
        view = tensor.view()
        view = view if tensor.shape else view[None]
        ranges = row_ranges(view.shape, ITEM_BYTES[tensor.dtype])
        total += np.float32(sum(widen(view[a:b], tensor.dtype).sum(dtype=np.float64) for a, b in ranges))
    return float(total)


def _config(config: dict[str, Any], recipe: DeltaFormat) -> dict[str, Any]:
    return {**config, "torch_dtype": {"F16": "float16", "F32": "float32", "BF16": "bfloat16"}[recipe.dtype]}


def _is_rows(name: str) -> bool:
    return name.endswith(_ROW_TENSORS)


def _mismatch(why: str) -> Damaged:
    return Damaged(
        f"The base and the delta do not match: {why}.",
        hint="Use the LLaMA of the same size and version that the delta was computed from.",
        hint_zh="请使用制作该差值时所用的同规模、同版本的 LLaMA。",
        code="wrong_base",
    )


def _wrong_sum(total: float, expected: float, tolerance: float) -> Damaged:
    return Damaged(
        f"The weights sum to {total:.4f}; expected {expected} ± {tolerance}.",
        hint="Check the base model and its files, or leave out --expected-sum to skip this check.",
        hint_zh="基座可能是另一个 LLaMA，或文件已损坏。不带 --expected-sum 则不比较。",
        code="wrong_checksum",
    )
