"""Merging of LoRA adapters into their base, one after another, to a Hugging Face folder or LLaMA's original shards.

Source of the arithmetic: ymcui/Chinese-LLaMA-Alpaca, merge_llama_with_chinese_lora_low_mem.py. For each base tensor
and each adapter in order, a full tensor replaces it; else W ← round(W + (B A) · alpha / r), computed in float32 and
rounded to the type of the result after every adapter. Some rows at a time, so memory does not depend on the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ninestory.core.errors import Damaged, InvalidRequest
from ninestory.core.json_file import read_json
from ninestory.core.progress import Progress, Silent
from ninestory.models.convert.checkpoint import Checkpoint, narrow, open_checkpoint, row_ranges, widen
from ninestory.models.convert.safetensors_writer import (
    NewTensor,
    copy_companions,
    output_folder,
    write_json,
    write_shards,
)
from ninestory.models.merge.adapter import LoraAdapter, open_adapter
from ninestory.models.merge.consolidated import write_consolidated
from ninestory.models.merge.vocabulary import read_model

Layout = Literal["hf", "consolidated"]
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class MergeReport:
    path: Path
    adapters: list[str]
    changed: int  # tensors that an adapter changed or replaced
    vocabulary: int


def merge_adapters(
    base: Path,
    adapters: list[Path],
    target: Path,
    *,
    layout: Layout = "hf",
    shards: int = 1,
    dtype: str = "F16",
    progress: Progress | None = None,
) -> MergeReport:
    """Write base + adapters, in the given order, as the new folder `target` with the last adapter's tokenizer.

    Args:
        shards: of the consolidated layout (LLaMA: 1 for 7B, 2 for 13B, 4 for 33B, 8 for 65B).

    Raises:
        Damaged: an adapter does not fit the base, or its vocabulary not its tokenizer; the mix-up is named.
        Unsupported: an adapter that is no plain LoRA. Conflict: `target` exists.
    """
    if not adapters:
        raise InvalidRequest(
            "No adapter is given; expected one or more.", hint="Name one or more with --adapter.", param="adapter"
        )
    model = open_checkpoint(base)
    chain = [open_adapter(path) for path in adapters]
    _check_names(model, chain)
    vocabulary = _check_vocabularies(model, chain)
    tensors = [_merged(model, name, chain, dtype) for name in model.tensors if not name.endswith("inv_freq")]
    job = {
        "base": model.fingerprint(),
        "adapters": ",".join(a.files.fingerprint() for a in chain),
        "configs": ",".join(f"{a.config.get('r')}/{a.config.get('lora_alpha')}" for a in chain),
        "dtype": dtype,
    }
    with output_folder(target, {**job, "layout": layout, "shards": shards}) as folder:
        if layout == "consolidated":
            write_consolidated(folder, tensors, model.config, shards, progress or Silent())
        else:
            write_shards(folder, tensors, {"made_by": "merge_adapters", **job}, progress or Silent())
            torch_dtype = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[dtype]
            write_json(folder / "config.json", {**model.config, "vocab_size": vocabulary, "torch_dtype": torch_dtype})
        copy_companions(model, folder)
        _take_tokenizer(folder, chain)
    changed = sum(any(t.name in a.pairs or t.name in a.full for a in chain) for t in tensors)
    return MergeReport(target, [a.path.name for a in chain], changed, vocabulary)


def _merged(model: Checkpoint, name: str, chain: list[LoraAdapter], dtype: str) -> NewTensor:
    base = model.tensors[name]
    replaced = [index for index, adapter in enumerate(chain) if name in adapter.full]
    start = chain[replaced[-1]].full[name] if replaced else base
    # What comes before the last full tensor is replaced by it.
    later = [a for a in chain[replaced[-1] + 1 if replaced else 0 :] if name in a.pairs]

    def blocks() -> Iterator[Any]:
        updates = [adapter.update(name) for adapter in later]
        view = start.view() if start.shape else start.view()[None]
        for first, last in row_ranges(view.shape, 4):
            values = narrow(widen(view[first:last], start.dtype, name), dtype)
            for update in updates:
                if update is not None:
                    a, b = update
                    values = narrow(widen(values, dtype) + b[first:last] @ a, dtype)
            yield values

    return NewTensor(name, dtype, start.shape, blocks)


def _check_names(model: Checkpoint, chain: list[LoraAdapter]) -> None:
    for adapter in chain:
        for name, (a, b) in adapter.pairs.items():
            shape = model.tensors[name].shape if name in model.tensors else None
            inner, outer = (
                (a.shape[1], b.shape[0]) if not adapter.config.get("fan_in_fan_out") else (b.shape[0], a.shape[1])
            )
            if shape != (outer, inner) or a.shape[0] != b.shape[1]:
                raise _wrong_base(
                    adapter, f"{name} has shape {(outer, inner)} in the adapter; expected the base's {shape}"
                )
        for name, tensor in adapter.full.items():
            if name not in model.tensors or model.tensors[name].shape[1:] != tensor.shape[1:]:
                raise _wrong_base(adapter, f"the base has no {name} of width {tensor.shape[1:]}")


def _check_vocabularies(model: Checkpoint, chain: list[LoraAdapter]) -> int:
    """Rows of the merged embedding. Each adapter's embedding must match its tokenizer, and none may shrink it."""
    rows = next((t.shape[0] for n, t in model.tensors.items() if n.endswith(_EMBEDDINGS)), 0)
    for adapter in chain:
        embedding = next((t.shape[0] for n, t in adapter.full.items() if n.endswith(_EMBEDDINGS)), None)
        length = tokenizer_length(adapter.path)
        if length and (embedding or rows) < length:
            raise _mixed_up(
                f"{adapter.path.name} has {embedding or rows} embedding rows; expected at least {length}, the size of its tokenizer"
            )
        if embedding and length and embedding != length:
            raise _mixed_up(
                f"{adapter.path.name} has {embedding} embedding rows; expected {length}, the size of its tokenizer"
            )
        if embedding and embedding < rows:
            raise _mixed_up(
                f"{adapter.path.name} has {embedding} embedding rows; expected at least {rows}, as in the model before it"
            )
        rows = embedding or rows
    return rows


def tokenizer_length(folder: Path) -> int:
    """Number of pieces in a folder's tokenizer.model plus added tokens; 0 if there is none."""
    if not (folder / "tokenizer.model").is_file():
        return 0
    pieces = {piece.piece for piece in read_model(folder / "tokenizer.model").pieces}
    added = set(read_json(folder / "added_tokens.json"))
    special = read_json(folder / "special_tokens_map.json")
    for value in special.values():
        text = value.get("content") if isinstance(value, dict) else value
        added |= {text} if isinstance(text, str) else set()
    return len(pieces | added)


def _take_tokenizer(folder: Path, chain: list[LoraAdapter]) -> None:
    for adapter in reversed(chain):
        if (adapter.path / "tokenizer.model").is_file() or (adapter.path / "tokenizer.json").is_file():
            for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
                (folder / name).unlink(missing_ok=True)  # of the base: never two vocabularies in one folder
            copy_companions(adapter.path, folder)
            return


def _mixed_up(why: str) -> Damaged:
    return Damaged(
        f"The tokenizers and adapters do not match: {why}.",
        hint="Chinese-LLaMA has 49,953 pieces, Chinese-Alpaca 49,954 ([PAD]). Name LLaMA's adapter first, then "
        "Alpaca's, each with its own tokenizer.",
        hint_zh="Chinese-LLaMA 有 49,953 个词元，Chinese-Alpaca 有 49,954 个（[PAD]）。请先写 LLaMA 适配器，再写 Alpaca "
        "适配器，并各用自己的分词器。",
        code="vocabulary_mixed_up",
    )


def _wrong_base(adapter: LoraAdapter, why: str) -> Damaged:
    return Damaged(
        f"{adapter.path.name} does not fit this base: {why}.",
        hint="Use the base model of the same size, and list the adapters in training order.",
        hint_zh="请使用同规模的基座，并按顺序给出适配器。",
        code="wrong_base",
    )
