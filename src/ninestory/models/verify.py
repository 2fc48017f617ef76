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
_SPM_BYTE = "<0x{:02X}>"


@dataclass(frozen=True)
class VerifyReport:
    """What was checked."""

    path: Path
    files: list[str]
    tensors: int
    nbytes: int
    dtypes: dict[str, int]  # bytes of each type
    notes: list[str] = field(default_factory=list)


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
    return VerifyReport(path, [path.name], len(tensors), path.stat().st_size, dtypes, notes)


def _verify_directory(path: Path) -> VerifyReport:
    shards = safetensors_reader.read_index(path)
    shards += (
        []
        if shards
        else sorted(f for p in ("*.bin", "*.pth", "*.pt") for f in path.glob(p) if "training_args" not in f.name)
    )
    shards += sorted(path.glob("*.gguf"))
    if not shards:
        raise NotFound(
            f"{path} holds no weights.",
            hint="Name the directory with .safetensors, .bin, .pth or .gguf files.",
            hint_zh="请指定包含 .safetensors、.bin、.pth 或 .gguf 文件的目录。",
            param="path",
        )
    notes: list[str] = []
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (path / name).is_file():
            _check_json(path / name)
    config = path / "config.json"
    if config.is_file() and "auto_map" in json.loads(config.read_text(encoding="utf-8")):
        notes.append("config.json names code of its own (auto_map): it is never run")
    if scripts := sorted(f.name for f in path.glob("*.py")):
        notes.append(f"{', '.join(scripts)}: never run")
    reports = [_verify_file(shard) for shard in shards]
    dtypes: dict[str, int] = {}
    for report in reports:
        notes += report.notes
        for dtype, nbytes in report.dtypes.items():
            dtypes[dtype] = dtypes.get(dtype, 0) + nbytes
    return VerifyReport(
        path, [s.name for s in shards], sum(r.tensors for r in reports), sum(r.nbytes for r in reports), dtypes, notes
    )


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Damaged(
            f"{path.name} is not JSON: {error}.", hint="Download it again.", hint_zh="请重新下载。"
        ) from error


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
    _require(file, isinstance(tokens, list) and tokens and isinstance(tokens[0], str), "its tokens are no list of text")
    _require(file, len(set(tokens)) == len(tokens), "two of its tokens are equal, which aborts llama.cpp")
    for name in ("scores", "token_type"):
        values = file.metadata.get(f"tokenizer.ggml.{name}")
        if values is not None:
            _require(
                file, isinstance(values, list) and len(values) == len(tokens), f"{name} and tokens differ in length"
            )
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
