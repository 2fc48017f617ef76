"""Check a model's files before anything native opens them: every tensor named, typed and in bounds, tokenizer sane.

No torch, no unpickling. It cannot detect changed weight values: compare the sha256 for those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, NotFound
from ninestory.core.json_file import MAX_JSON_BYTES, read_json, refuse_pointer
from ninestory.models import pickle_reader, safetensors_reader
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.gguf_semantics import MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, check_gguf
from ninestory.models.kinds.contents import ctranslate2_files, ctranslate2_spec, is_pipeline

_JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt")  # of torch's own format
_TRAINING_FILES = ("training_args", "optimizer", "scheduler", "rng_state", "random_states", "scaler")
_CONFIG_LIMITS = {  # whole numbers: names → least, most
    ("num_hidden_layers", "num_layers", "n_layer"): (0, MAX_LAYERS),
    ("intermediate_size",): (0, MAX_WIDTH),
    ("hidden_size", "n_embd", "d_model", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim"): (
        1,
        MAX_WIDTH,
    ),
    ("vocab_size",): (1, 1 << 24),
    ("max_position_embeddings", "n_positions", "seq_length"): (1, MAX_CONTEXT),
}
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon", "norm_eps")
_PARTS_OF_CONFIG = ("text_config", "vision_config", "qformer_config")  # each has sizes of its own
_PIECE_TYPES = range(1, 7)  # sentencepiece_model.proto: NORMAL … BYTE


@dataclass(frozen=True)
class VerifyReport:
    """Result of a verification."""

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
        raise NotFound(f"{path} does not exist.", param="path")
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
            f"{path.name} is not a supported model file.",
            hint=f"Use .gguf, .safetensors, {', '.join(PICKLE_SUFFIXES)}.",
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
            f"{path} has no weights.",
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
    """Verify a pipeline: every subfolder with weights."""
    reports = [_verify_directory(part) for part in sorted(path.iterdir()) if part.is_dir() and weight_files(part)]
    if not reports:
        raise Damaged(
            f"{path} has a model_index.json but no weights.",
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
    """Weights in torch's format, without the other files of a training run (optimizer, scheduler)."""
    for index in path.glob("*.bin.index.json"):
        weight_map = safetensors_reader.read_weight_map(index) or {}
        return [path / name for name in sorted(set(weight_map.values()))]
    found = sorted(f for suffix in PICKLE_SUFFIXES for f in path.glob(f"*{suffix}"))
    return [f for f in found if not f.name.startswith(_TRAINING_FILES) and not ctranslate2_spec(f)]


def _check_index(path: Path, reports: list[VerifyReport]) -> None:
    """Check that every tensor of an index is in its listed file."""
    held = {report.path.name: set(report.names) for report in reports}
    for index in sorted(path.glob("*.index.json")):
        for tensor, name in (safetensors_reader.read_weight_map(index) or {}).items():
            if name in held and tensor not in held[name]:
                raise Damaged(
                    f"{index.name} lists {tensor!r} in {name}, which does not contain it.",
                    hint="Use the index and the weights of the same release.",
                    hint_zh="请使用同一版本的索引与权重。",
                )


def _check_config(path: Path, config: dict[str, Any]) -> None:
    """Check that the sizes in config.json are plain numbers in a sane range."""
    for names, (least, most) in _CONFIG_LIMITS.items():
        for name in names:
            value = config.get(name)
            if value is not None and not (type(value) is int and least <= value <= most):
                raise _unsound(path, f"{name} is {str(value)[:80]}; expected a whole number from {least} to {most}")
    for name in _EPSILONS:
        value = config.get(name)
        if value is not None and not (type(value) in (int, float) and 0 < value < 1):  # NaN is in no range
            raise _unsound(path, f"{name} is {str(value)[:80]}; expected a number between 0 and 1")
    theta = config.get("rope_theta")
    if theta is not None and not (type(theta) in (int, float) and 0 < theta < math.inf):
        raise _unsound(path, f"rope_theta is {str(theta)[:80]}; expected a positive number")
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if heads and width and config.get("head_dim") is None and width % heads:
        raise _unsound(path, f"hidden_size is {width} and num_attention_heads {heads}; expected a multiple")
    if (shared := config.get("num_key_value_heads")) and heads and heads % shared:
        raise _unsound(path, f"num_key_value_heads is {shared} of {heads} heads; expected a divisor")
    for name in _PARTS_OF_CONFIG:
        if isinstance(config.get(name), dict):
            _check_config(path, config[name])


def _unsound(path: Path, why: str) -> Damaged:
    return Damaged(
        f"{path.name} is damaged: {why}.",
        hint="Download it again, or compare it with the publisher's.",
        hint_zh="请重新下载，或与发布者的文件比对。",
    )


def _check_sentencepiece(path: Path) -> None:
    """Check a SentencePiece model (a protocol-buffer message): readable, unique and scored pieces."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    refuse_pointer(path)
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise _no_sentencepiece(path, f"it has {size:,} bytes; expected at most {MAX_JSON_BYTES:,}")
    data = path.read_bytes()
    if data[:1] != b"\x0a":  # the first piece: field 1
        raise _no_sentencepiece(path, f"it starts with {data[:16]!r}")
    messages: Any = sentencepiece_model_pb2  # its classes are made at import; mypy sees none
    try:
        model = messages.ModelProto.FromString(data)
        pieces = [piece.piece for piece in model.pieces]
    except (DecodeError, UnicodeDecodeError) as error:
        raise _no_sentencepiece(path, str(error)[:200]) from error
    seen: set[str] = set()
    for number, piece in enumerate(model.pieces):
        if not pieces[number] or pieces[number] in seen:
            raise _no_sentencepiece(
                path, f"piece {number} is {pieces[number][:40]!r}; expected a unique, non-empty text"
            )
        if not math.isfinite(piece.score) or piece.type not in _PIECE_TYPES:
            raise _no_sentencepiece(path, f"piece {number} has the score {piece.score} and the type {piece.type}")
        seen.add(pieces[number])
    unknown = sum(piece.type == messages.ModelProto.SentencePiece.UNKNOWN for piece in model.pieces)
    if unknown != 1:
        raise _no_sentencepiece(path, f"it has {unknown} unknown pieces; expected 1")


def _no_sentencepiece(path: Path, why: str) -> Damaged:
    return Damaged(
        f"{path.name} is not a SentencePiece model: {why}.",
        hint="Download it again (ninestory pull).",
        hint_zh="请重新下载（ninestory pull）。",
    )
