"""Vocabulary extension: resize a checkpoint's embedding and head to a larger tokenizer.

A new token's row is the mean of the rows of its text's old tokens, as an initialisation for further pre-training (Chinese-LLaMA-Alpaca trains both tables whole).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.core.progress import Progress, Silent
from ninestory.models.convert.checkpoint import Tensor, narrow, open_checkpoint, row_ranges, widen
from ninestory.models.convert.safetensors_writer import (
    NewTensor,
    copy_companions,
    output_folder,
    write_json,
    write_shards,
)
from ninestory.tokenizers.load import load_tokenizer
from ninestory.tokenizers.tokenizer import Tokenizer

_TABLES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "lm_head.weight")
_VOCABULARY = ("tokenizer.model", "tokenizer.json", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class ExtendReport:
    path: Path
    rows: int  # of the embedding, before
    vocabulary: int  # rows now
    tables: list[str]


def extend_vocabulary(base: Path, tokenizer: Path, target: Path, progress: Progress | None = None) -> ExtendReport:
    """Write the checkpoint `base` with the vocabulary of `tokenizer` as the new folder `target`.

    Args:
        tokenizer: a folder with a tokenizer, or a SentencePiece model (`merge vocabulary` makes one); its first tokens
            are those of the base.

    Raises:
        InvalidRequest: the new vocabulary is not the old one with more behind it, or no table of this model grows.
        Conflict: `target` exists.
    """
    model, old = open_checkpoint(base), load_tokenizer(base)
    job = {"base": model.fingerprint(), "tokenizer": str(tokenizer.resolve())}
    with output_folder(target, job) as folder:
        copy_companions(model, folder)
        _put_vocabulary(tokenizer, folder)
        new = load_tokenizer(folder)
        _check_extends(old, new)
        grown = {n: t for n, t in model.tensors.items() if n.endswith(_TABLES) and len(t.shape) == 2}
        if not grown:
            raise InvalidRequest(
                f"{base.name} has no embedding table; expected one of {', '.join(_TABLES)}.",
                hint="Use a LLaMA, BLOOM or GPT-2 style model.",
                hint_zh="支持扩展 LLaMA、BLOOM、GPT-2 等系列的词表。",
                param="base",
            )
        before = next(iter(grown.values())).shape[0]
        rows = max(before, new.vocab_size)
        written = [_written_before(old, new, token) for token in range(old.vocab_size, rows)]
        tensors = [_grown(t, old.vocab_size, written) if n in grown else _same(t) for n, t in model.tensors.items()]
        write_shards(folder, tensors, {"made_by": "extend_vocabulary"}, progress or Silent())
        write_json(folder / "config.json", {**model.config, "vocab_size": rows})
    return ExtendReport(target, before, rows, list(grown))


def _put_vocabulary(tokenizer: Path, folder: Path) -> None:
    """Replace the folder's tokenizer files: a folder has exactly one vocabulary."""
    for name in _VOCABULARY:
        (folder / name).unlink(missing_ok=True)
    if tokenizer.is_dir():
        copy_companions(tokenizer, folder)
    else:
        shutil.copyfile(tokenizer, folder / "tokenizer.model")


def _check_extends(old: Tokenizer, new: Tokenizer) -> None:
    other = next(
        (i for i in range(old.vocab_size) if i >= new.vocab_size or old.token_bytes(i) != new.token_bytes(i)), None
    )
    if other is not None or new.vocab_size == old.vocab_size:
        why = f"token {other} is another" if other is not None else "it has no token more"
        raise InvalidRequest(
            f"The vocabulary of {new.vocab_size} tokens does not extend the model's {old.vocab_size}: {why}.",
            hint="Make it from the model's own: ninestory merge vocabulary BASE/tokenizer.model SECOND.model OUT.model.",
            hint_zh="请基于该模型自己的词表生成：ninestory merge vocabulary BASE/tokenizer.model SECOND.model OUT.model。",
            param="tokenizer",
            code="other_vocabulary",
        )


def _written_before(old: Tokenizer, new: Tokenizer, token: int) -> list[int]:
    """Old token ids of a new token's text; empty for a padding row or invalid UTF-8."""
    if token >= new.vocab_size:
        return []
    try:
        text = new.token_bytes(token).decode()
    except UnicodeDecodeError:
        return []
    ids = old.encode(text)
    if len(ids) > 1 and old.token_bytes(ids[0]) == b" " and not text.startswith(" "):
        return ids[1:]  # SentencePiece puts a blank of its own before a text
    return ids


def _same(tensor: Tensor) -> NewTensor:
    def blocks() -> Iterator[Any]:
        view = tensor.view() if tensor.shape else tensor.view()[None]
        for first, last in row_ranges(view.shape, 4):
            yield view[first:last]

    return NewTensor(tensor.name, tensor.dtype, tensor.shape, blocks)


def _grown(tensor: Tensor, known: int, written: list[list[int]]) -> NewTensor:
    """Keep the first `known` rows; append means of the rows that `written` lists, or of all rows."""
    import numpy as np

    def blocks() -> Iterator[Any]:
        view = tensor.view()
        total = np.zeros(view.shape[1], np.float64)
        for first, last in row_ranges((known, view.shape[1]), 4):
            yield view[first:last]
            total += widen(view[first:last], tensor.dtype, tensor.name).sum(0, dtype=np.float64)
        average = (total / known).astype(np.float32)
        for ids in written:
            row = np.mean([widen(view[i : i + 1], tensor.dtype, tensor.name)[0] for i in ids], 0) if ids else average
            yield narrow(row[None].astype(np.float32), tensor.dtype)

    return NewTensor(tensor.name, tensor.dtype, (known + len(written), tensor.shape[1]), blocks)
