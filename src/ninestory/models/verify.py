"""Check a model's files before anything native opens them: every tensor named, typed and in bounds, tokenizer sane.

No torch, no unpickling. What it cannot see are changed weight bytes: compare sha256 for those.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, NotFound
from ninestory.models import pickle_reader, safetensors_reader
from ninestory.models.gguf_reader import GgufFile, read_gguf

MAX_LAYERS = 512
MAX_JSON_BYTES = 64 << 20  # the tokenizer.json of a vocabulary of 250,000 pieces has 17 MB
_JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
_TRAINING_FILES = ("training_args", "optimizer", "scheduler", "rng_state", "random_states", "scaler")
_LFS = b"version https://git-lfs"
_CONFIG_LIMITS = {
    ("num_hidden_layers", "num_layers", "n_layer"): MAX_LAYERS,
    ("hidden_size", "n_embd", "d_model", "intermediate_size", "num_attention_heads", "n_head"): 1 << 20,
    ("vocab_size",): 1 << 24,
}
_SPM_BYTE = "<0x{:02X}>"
# llama.cpp reads these lists by their length alone, whatever their type: a list of bytes is read beyond its end
_TOKENIZER_LISTS = {"tokens": ("str[]",), "merges": ("str[]",), "scores": ("f32[]",), "token_type": ("i32[]", "u32[]")}


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
    _refuse_pointer(path)
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
    elif path.suffix in (".bin", ".pth", ".pt"):
        tensors, notes = pickle_reader.read_pickle(path).tensors.values(), []
    else:
        raise Damaged(
            f"{path.name} is not a model file that is known.",
            hint="Known are .gguf, .safetensors, .bin, .pth and .pt.",
            hint_zh="支持 .gguf、.safetensors、.bin、.pth、.pt。",
        )
    dtypes: dict[str, int] = {}
    for tensor in tensors:
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.nbytes
    names = [tensor.name for tensor in tensors]
    return VerifyReport(path, [path.name], len(tensors), path.stat().st_size, dtypes, notes, names)


def _verify_directory(path: Path) -> VerifyReport:
    shards = safetensors_reader.read_index(path) or _pickles(path)
    shards += sorted(path.glob("*.gguf"))
    if not shards:
        raise NotFound(
            f"{path} holds no weights.",
            hint="Name the directory with .safetensors, .bin, .pth or .gguf files.",
            hint_zh="请指定包含 .safetensors、.bin、.pth 或 .gguf 文件的目录。",
            param="path",
        )
    notes: list[str] = []
    settings = {name: _read_json(path / name) for name in _JSON_FILES if (path / name).is_file()}
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


def _pickles(path: Path) -> list[Path]:
    """Weights of torch's own format; what a training run leaves beside them is no model."""
    for index in path.glob("*.bin.index.json"):
        weight_map = safetensors_reader.read_weight_map(index) or {}
        return [path / name for name in sorted(set(weight_map.values()))]
    found = sorted(f for pattern in ("*.bin", "*.pth", "*.pt") for f in path.glob(pattern))
    return [f for f in found if not f.name.startswith(_TRAINING_FILES)]


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


def _read_json(path: Path) -> dict[str, Any]:
    _refuse_pointer(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        table = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError(f"it holds a {type(table).__name__}")
    except (ValueError, RecursionError) as error:
        raise Damaged(
            f"{path.name} is no JSON object: {error}.", hint="Download it again.", hint_zh="请重新下载。"
        ) from error
    return table


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
    _refuse_pointer(path)
    with path.open("rb") as file:
        start = file.read(16)
    if start[:1] != b"\x0a":
        raise Damaged(
            f"{path.name} is no SentencePiece model: it starts with {start!r}.",
            hint="Download it again (ninestory pull).",
            hint_zh="请重新下载（ninestory pull）。",
        )


def _refuse_pointer(path: Path) -> None:
    """A clone without git-lfs leaves a text of three lines in the place of each large file."""
    with path.open("rb") as file:
        if file.read(len(_LFS)) != _LFS:
            return
    raise Damaged(
        f"{path.name} is a Git LFS pointer, not the file itself.",
        hint="Run 'git lfs pull' in the clone, or take the model by 'ninestory pull'.",
        hint_zh="请在克隆目录运行 git lfs pull，或用 ninestory pull 下载。",
        code="lfs_pointer",
    )


# --- the meaning of a GGUF header -------------------------------------------------------------------------------


def check_gguf(file: GgufFile) -> list[str]:
    """Check what a sound header says: sizes that agree, a tokenizer that cannot abort llama.cpp.

    Returns notes. Raises `Damaged`.
    """
    layers = file.field("block_count")
    _require(file, isinstance(layers, int) and 1 <= layers <= MAX_LAYERS, f"block_count is {layers!r}")
    width, heads = file.field("embedding_length"), file.field("attention.head_count")
    _require(file, isinstance(width, int) and 0 < width < 1 << 20, f"embedding_length is {width!r}")
    for count in heads if isinstance(heads, list) else [heads]:
        if count is not None:
            _require(file, isinstance(count, int) and 0 <= count <= width, f"head_count is {count!r} of width {width}")
    if isinstance(heads, int) and heads and file.field("attention.key_length") is None:
        _require(file, width % heads == 0, f"width {width} cannot be divided by {heads} heads")
    kv_heads = file.field("attention.head_count_kv")
    if isinstance(kv_heads, int) and isinstance(heads, int) and heads:
        _require(file, 0 < kv_heads <= heads and heads % kv_heads == 0, f"{heads} heads share {kv_heads} key heads")
    for name in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
        epsilon = file.field(name)
        if epsilon is not None:
            _require(file, isinstance(epsilon, float) and 0 < epsilon < 1, f"{name} is {epsilon!r}")
    experts, used = file.field("expert_count", 0), file.field("expert_used_count", 0)
    sane = isinstance(experts, int) and isinstance(used, int) and 0 <= experts <= 512
    _require(file, sane and used <= experts and (used > 0) == (experts > 0), f"it uses {used!r} of {experts!r} experts")
    context = file.field("context_length")
    _require(
        file, context is None or (isinstance(context, int) and 0 < context < 1 << 28), f"context_length is {context!r}"
    )
    _check_tokenizer(file)
    return _check_tensors(file, layers)


def _check_tokenizer(file: GgufFile) -> None:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    for name, kinds in _TOKENIZER_LISTS.items():
        kind = file.kinds.get(f"tokenizer.ggml.{name}")
        _require(
            file, kind is None or kind in kinds, f"{name} is of the type {kind}, which llama.cpp takes for {kinds}"
        )
    _require(file, tokens and len(set(tokens)) == len(tokens), "two of its tokens are equal, which aborts llama.cpp")
    for name in ("scores", "token_type"):
        values = file.metadata.get(f"tokenizer.ggml.{name}", tokens)
        _require(file, len(values) == len(tokens), f"it has {len(tokens)} tokens and {len(values)} of {name}")
    for key, value in file.metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            _require(
                file,
                (isinstance(value, int) and 0 <= value < len(tokens)) or value == 0xFFFFFFFF,
                f"{key} is {value!r}",
            )
    if file.metadata.get("tokenizer.ggml.model") == "llama":
        known = set(tokens)
        missing = [i for i in range(256) if _SPM_BYTE.format(i) not in known]
        _require(
            file, not missing, f"its vocabulary lacks the byte token {_SPM_BYTE.format(missing[0] if missing else 0)}"
        )


def _check_tensors(file: GgufFile, layers: int) -> list[str]:
    vocabulary = file.metadata.get("tokenizer.ggml.tokens")
    embedding = file.tensors.get("token_embd.weight")
    _require(file, embedding is not None, "it has no token_embd.weight")
    assert embedding is not None
    width = file.field("embedding_length")
    _require(file, embedding.shape[-1] == width, f"its embedding is {embedding.shape}, the width {width}")
    if vocabulary is not None:
        _require(
            file,
            embedding.shape[0] == len(vocabulary),
            f"it has {len(vocabulary)} tokens and {embedding.shape[0]} embeddings",
        )
    expected = _EXPECTED.get(file.architecture)
    if expected is None:
        return [
            f"the architecture {file.architecture!r} has no table of tensors here: names and shapes were not compared"
        ]
    required, optional = expected(file, layers)
    for name, shape in required.items():
        tensor = file.tensors.get(name)
        _require(file, tensor is not None, f"the tensor {name!r} is missing")
        assert tensor is not None
        _require(file, tensor.shape == shape, f"the tensor {name!r} has the shape {tensor.shape} where {shape} was due")
    surplus = [n for n in file.tensors if n not in required and n not in optional]
    _require(file, not surplus, f"the tensor {surplus[0] if surplus else ''!r} belongs to no {file.architecture} model")
    return []


def _llama_tensors(file: GgufFile, layers: int) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """name → shape of a LLaMA-shaped file, and what may be there beside it."""
    width, ffn = file.field("embedding_length"), file.field("feed_forward_length")
    heads = file.field("attention.head_count")
    kv_heads = file.field("attention.head_count_kv", heads)
    if not all(isinstance(n, int) for n in (ffn, heads, kv_heads)):
        raise _bad(file, f"feed_forward_length is {ffn!r} and its head counts {heads!r} and {kv_heads!r}")
    head = file.field("attention.key_length", width // heads)
    value = file.field("attention.value_length", head)
    vocabulary = file.tensors["token_embd.weight"].shape[0]
    required: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,)}
    for i in range(layers):
        block = f"blk.{i}."
        required |= {
            f"{block}attn_norm.weight": (width,),
            f"{block}attn_q.weight": (heads * head, width),
            f"{block}attn_k.weight": (kv_heads * head, width),
            f"{block}attn_v.weight": (kv_heads * value, width),
            f"{block}attn_output.weight": (width, heads * value),
            f"{block}ffn_norm.weight": (width,),
            f"{block}ffn_gate.weight": (ffn, width),
            f"{block}ffn_up.weight": (ffn, width),
            f"{block}ffn_down.weight": (width, ffn),
        }
    biases = {f"blk.{i}.attn_{part}.bias" for i in range(layers) for part in ("q", "k", "v", "output")}
    return required, {"output.weight", "rope_freqs.weight", "output.bias", *biases}


def _qwen2_tensors(file: GgufFile, layers: int) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """LLaMA's tensors with biases of query, key and value."""
    required, optional = _llama_tensors(file, layers)
    for i in range(layers):
        for part in "qkv":
            required[f"blk.{i}.attn_{part}.bias"] = required[f"blk.{i}.attn_{part}.weight"][:1]
    return required, optional


_EXPECTED: dict[str, Callable[[GgufFile, int], tuple[dict[str, tuple[int, ...]], set[str]]]] = {
    "llama": _llama_tensors,
    "qwen2": _qwen2_tensors,
}


def _require(file: GgufFile, condition: Any, why: str) -> None:
    if not condition:
        raise _bad(file, why)


def _bad(file: GgufFile, why: str) -> Damaged:
    return Damaged(
        f"{file.path.name} does not make sense: {why}.",
        hint="Download it again (ninestory pull), or compare its sha256 with the publisher's.",
        hint_zh="请重新下载（ninestory pull），或与发布者的 sha256 比对。",
        code="damaged_gguf",
    )
