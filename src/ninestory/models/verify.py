"""Check a model's files before anything native opens them: every tensor named, typed and in bounds, tokenizer sane.

No torch, no unpickling. What it cannot see are changed weight bytes: compare sha256 for those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, NotFound
from ninestory.core.json_file import read_json, refuse_pointer
from ninestory.models import pickle_reader, safetensors_reader
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.gguf_semantics import MAX_LAYERS, check_gguf
from ninestory.models.kinds.contents import ctranslate2_files, ctranslate2_spec, is_pipeline

_JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt")  # of torch's own format
_TRAINING_FILES = ("training_args", "optimizer", "scheduler", "rng_state", "random_states", "scaler")
_CONFIG_LIMITS = {
    ("num_hidden_layers", "num_layers", "n_layer"): MAX_LAYERS,
    ("hidden_size", "n_embd", "d_model", "intermediate_size", "num_attention_heads", "n_head"): 1 << 20,
    ("vocab_size",): 1 << 24,
}


@dataclass(frozen=True)
class VerifyReport:
    """What was checked."""

    path: Path
    files: list[str]
    tensors: int
    nbytes: int
    dtypes: dict[str, int]  # bytes of each type
    notes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of the tensors


def verify(path: Path) -> VerifyReport:
    """Check a model file or a checkpoint directory.

    Raises:
        Damaged: the first fault, with the file and the value seen.
        NotFound: there is nothing to check.
    """
    if path.is_dir():
        return _verify_directory(path)
    if not path.is_file():
        raise NotFound(f"There is nothing at {path}.", param="path")
    return _verify_file(path)


def _verify_file(path: Path) -> VerifyReport:
    refuse_pointer(path)
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"GGUF" or path.suffix == ".gguf":
        header = read_gguf(path)
        notes = check_gguf(header)
        tensors: Any = header.tensors.values()
        if header.trailing_bytes:
            notes.append(f"{path.name}: {header.trailing_bytes} bytes after the last tensor")
    elif path.suffix == ".safetensors":
        tensors, notes = safetensors_reader.read_header(path).tensors.values(), []
    elif path.suffix in PICKLE_SUFFIXES:
        tensors, notes = pickle_reader.read_pickle(path).tensors.values(), []
    else:
        raise Damaged(
            f"{path.name} is not a model file that is known.",
            hint=f"Known are .gguf, .safetensors, {', '.join(PICKLE_SUFFIXES)}.",
            hint_zh=f"支持 .gguf、.safetensors、{'、'.join(PICKLE_SUFFIXES)}。",
        )
    dtypes: dict[str, int] = {}
    for tensor in tensors:
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.nbytes
    names = [tensor.name for tensor in tensors]
    return VerifyReport(path, [path.name], len(tensors), path.stat().st_size, dtypes, notes, names)


def _verify_directory(path: Path) -> VerifyReport:
    if is_pipeline(path):
        return _verify_parts(path)
    shards = weight_files(path) + sorted(path.glob("*.gguf"))
    if not shards and (models := ctranslate2_files(path)):
        nbytes = sum(file.stat().st_size for file in models)
        note = "only the head of CTranslate2's files is looked at here; its own reader checks the tensors"
        return VerifyReport(path, [file.name for file in models], 0, nbytes, {}, [note])
    if not shards:
        raise NotFound(
            f"{path} holds no weights.",
            hint="Name the directory with .safetensors, .bin, .pth or .gguf files.",
            hint_zh="请指定包含 .safetensors、.bin、.pth 或 .gguf 文件的目录。",
            param="path",
        )
    notes: list[str] = []
    settings = {name: read_json(path / name) for name in _JSON_FILES if (path / name).is_file()}
    for name, table in settings.items():
        if "auto_map" in table:
            notes.append(f"{name} names code of its own (auto_map): it is never run")
    _check_config(path / "config.json", settings.get("config.json", {}))
    for name in ("tokenizer.model", "ice_text.model", "spiece.model"):
        if (path / name).is_file():
            _check_sentencepiece(path / name)
    if scripts := sorted(f.name for f in path.glob("*.py")):
        notes.append(f"{', '.join(scripts)}: never run")
    reports = [_verify_file(shard) for shard in shards]
    _check_index(path, reports)
    dtypes: dict[str, int] = {}
    for report in reports:
        notes += report.notes
        for dtype, nbytes in report.dtypes.items():
            dtypes[dtype] = dtypes.get(dtype, 0) + nbytes
    names = [name for report in reports for name in report.names]
    nbytes = sum(report.nbytes for report in reports)
    return VerifyReport(path, [shard.name for shard in shards], len(names), nbytes, dtypes, notes, names)


def _verify_parts(path: Path) -> VerifyReport:
    """A pipeline: every folder in it that holds weights."""
    reports = [_verify_directory(part) for part in sorted(path.iterdir()) if part.is_dir() and weight_files(part)]
    if not reports:
        raise Damaged(
            f"{path} holds a model_index.json but no weights.",
            hint="Complete the download (ninestory pull).",
            hint_zh="请补全下载（ninestory pull）。",
        )
    dtypes: dict[str, int] = {}
    for report in reports:
        for dtype, nbytes in report.dtypes.items():
            dtypes[dtype] = dtypes.get(dtype, 0) + nbytes
    return VerifyReport(
        path,
        files=[f"{report.path.name}/{name}" for report in reports for name in report.files],
        tensors=sum(report.tensors for report in reports),
        nbytes=sum(report.nbytes for report in reports),
        dtypes=dtypes,
        notes=[note for report in reports for note in report.notes],
        names=[name for report in reports for name in report.names],
    )


def weight_files(path: Path) -> list[Path]:
    """The files of a checkpoint folder that hold its weights: safetensors, else torch's own format."""
    return safetensors_reader.read_index(path) or _pickles(path)


def _pickles(path: Path) -> list[Path]:
    """Weights of torch's own format; what a training run leaves beside them is no model."""
    for index in path.glob("*.bin.index.json"):
        weight_map = safetensors_reader.read_weight_map(index) or {}
        return [path / name for name in sorted(set(weight_map.values()))]
    found = sorted(f for suffix in PICKLE_SUFFIXES for f in path.glob(f"*{suffix}"))
    return [f for f in found if not f.name.startswith(_TRAINING_FILES) and not ctranslate2_spec(f)]


def _check_index(path: Path, reports: list[VerifyReport]) -> None:
    """Every tensor of an index must be in the file that it names."""
    held = {report.path.name: set(report.names) for report in reports}
    for index in sorted(path.glob("*.index.json")):
        for tensor, name in (safetensors_reader.read_weight_map(index) or {}).items():
            if name in held and tensor not in held[name]:
                raise Damaged(
                    f"{index.name} says that {tensor!r} is in {name}, and it is not.",
                    hint="Take the index and the weights of the same release.",
                    hint_zh="请使用同一版本的索引与权重。",
                )


def _check_config(path: Path, config: dict[str, Any]) -> None:
    """Sizes that code multiplies and allocates by must be plain numbers of a sane size."""
    for names, limit in _CONFIG_LIMITS.items():
        for name in names:
            value = config.get(name)
            if value is not None and not (type(value) is int and 0 <= value <= limit):
                raise Damaged(
                    f"{path.name} says {name} = {str(value)[:80]}, and a number from 0 to {limit} was due.",
                    hint="Download it again, or compare it with the publisher's.",
                    hint_zh="请重新下载，或与发布者的文件比对。",
                )


def _check_sentencepiece(path: Path) -> None:
    """A SentencePiece model is a protocol-buffer message that begins with its first piece (field 1)."""
    refuse_pointer(path)
    with path.open("rb") as file:
        start = file.read(16)
    if start[:1] != b"\x0a":
        raise Damaged(
            f"{path.name} is no SentencePiece model: it starts with {start!r}.",
            hint="Download it again (ninestory pull).",
            hint_zh="请重新下载（ninestory pull）。",
        )
