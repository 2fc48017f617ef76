"""Semantic checks of a GGUF header: consistent sizes, a tokenizer that llama.cpp accepts, the architecture's tensors.

`gguf_reader` checks that the header is well-formed; this module checks that native code can rely on it.
"""

from __future__ import annotations

from typing import Any

from ninestory.core.errors import Damaged
from ninestory.models.gguf_architectures import TABLES, Expected, Sizes
from ninestory.models.gguf_reader import GgufFile

MAX_LAYERS = 512
MAX_WIDTH, MAX_CONTEXT, MAX_EXPERTS = 1 << 20, 1 << 28, 512
_NO_TOKEN = 0xFFFFFFFF
_SPM_BYTE = "<0x{:02X}>"
# llama.cpp reads these lists by their length alone, whatever their type: a list of bytes is read beyond its end
_TOKENIZER_LISTS = {
    "tokens": ("str[]",),
    "merges": ("str[]",),
    "scores": ("f32[]",),
    "token_type": ("i32[]", "u32[]"),
    "precompiled_charsmap": ("i8[]", "u8[]"),
}
_POOLING_TYPES = range(5)
POOLING_RANK = 4  # llama.cpp's mark of a cross-encoder
_PARTLY_ROTATED = ("phi2", "bloom", "bert")  # the other graphs assert that a head is rotated whole
_NO_LANGUAGE_MODEL = ("adapter", "mmproj", "imatrix")


def check_gguf(file: GgufFile) -> list[str]:
    """Check a header that `read_gguf` has read; returns notes.

    Raises:
        Damaged: with the first value that makes no sense.
    """
    if file.metadata.get("general.type") in _NO_LANGUAGE_MODEL or file.architecture == "clip":
        return [f"{file.path.name} holds no language model of its own: its tensors' names were not compared"]
    parts = file.metadata.get("split.count", 1)
    if parts != 1:
        return [f"{file.path.name} is one of {parts} parts: its tensors' names were not compared"]
    layers = _number(file, "block_count", 1, MAX_LAYERS)
    width = _number(file, "embedding_length", 1, MAX_WIDTH)
    _check_heads(file, layers, width)
    _check_settings(file)
    _check_tokenizer(file)
    return _check_tensors(file, layers, width)


def _check_heads(file: GgufFile, layers: int, width: int) -> None:
    """Head counts are one number, or one a layer; 0 where a layer has no attention."""
    heads = _per_layer(file, "attention.head_count", layers, width)
    kv_heads = _per_layer(file, "attention.head_count_kv", layers, width) or heads
    for count, kv_count in zip(heads, kv_heads, strict=True):
        if not count:
            continue
        if file.field("attention.key_length") is None:
            _require(file, width % count == 0, f"the width {width} is not divisible by {count} heads")
        _require(file, kv_count <= count, f"head_count_kv is {kv_count}; expected at most head_count, {count}")
        _require(
            file,
            kv_count == 0 or count % kv_count == 0,
            f"head_count is {count}; expected a multiple of head_count_kv, {kv_count}",
        )


def _check_settings(file: GgufFile) -> None:
    for name in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.group_norm_epsilon"):
        epsilon = file.field(name)
        if epsilon is not None:
            _require(file, isinstance(epsilon, float) and 0 < epsilon < 1, f"{name} is {epsilon!r}")
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if file.field(name) is not None:
            _number(file, name, 1, MAX_WIDTH)
    rotated = file.field("rope.dimension_count", 0)
    _require(
        file,
        rotated % 2 == 0,
        f"rope.dimension_count is {rotated}; expected an even number (llama.cpp aborts otherwise)",
    )
    if file.field("context_length") is not None:
        _number(file, "context_length", 1, MAX_CONTEXT)
    if file.field("pooling_type") is not None:
        pooling = file.field("pooling_type")
        _require(file, pooling in _POOLING_TYPES, f"pooling_type is {pooling!r}, which makes llama.cpp abort")
        scores = pooling != POOLING_RANK or "cls.output.weight" in file.tensors
        _require(file, scores, "it is marked as a reranker, but its score tensor 'cls.output.weight' is missing")
    experts, used = file.field("expert_count", 0), file.field("expert_used_count", 0)
    whole = type(experts) is int and type(used) is int and 0 <= experts <= MAX_EXPERTS
    _require(
        file, whole and used <= experts and (used > 0) == (experts > 0), f"it uses {used!r} of {experts!r} experts"
    )
    if file.architecture.startswith(("rwkv", "arwkv")):
        head = _number(file, "wkv.head_size", 1, MAX_WIDTH)
        _require(
            file, file.field("embedding_length") % head == 0, f"its width is not divisible by the head size {head}"
        )
        aligned = "rwkv7" not in file.architecture or head % 32 == 0
        _require(
            file,
            aligned,
            f"its head size is {head}; expected a multiple of 32 (llama.cpp reads past the end otherwise)",
        )


def _check_tokenizer(file: GgufFile) -> None:
    for name, kinds in _TOKENIZER_LISTS.items():
        kind = file.kinds.get(f"tokenizer.ggml.{name}")
        _require(file, kind is None or kind in kinds, f"{name} has type {kind}; expected {kinds[0]}")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    _require(file, tokens and len(set(tokens)) == len(tokens), "a token is duplicated, which makes llama.cpp abort")
    for name in ("scores", "token_type"):
        values = file.metadata.get(f"tokenizer.ggml.{name}", tokens)
        _require(
            file, len(values) == len(tokens), f"{name} has {len(values)} entries; expected {len(tokens)}, one per token"
        )
    for key, value in file.metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and value != _NO_TOKEN:
            _require(
                file,
                type(value) is int and 0 <= value < len(tokens),
                f"{key} is {value!r}; expected an id below {len(tokens)}",
            )
    if file.metadata.get("tokenizer.ggml.model") == "llama":
        known = set(tokens)
        missing = [_SPM_BYTE.format(i) for i in range(256) if _SPM_BYTE.format(i) not in known]
        _require(file, not missing, f"its vocabulary lacks the byte token {''.join(missing[:1])}")


def _check_tensors(file: GgufFile, layers: int, width: int) -> list[str]:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise _senseless(file, "the tensor 'token_embd.weight' is missing")
    _require(file, embedding.shape[-1] == width, f"its embedding has shape {embedding.shape}; expected width {width}")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    rows = embedding.shape[0]
    _require(
        file,
        tokens is None or rows == len(tokens),
        f"it has {len(tokens or [])} tokens; expected {rows}, the embedding's rows",
    )
    tables = TABLES.get(file.architecture)
    if tables is None or file.field("expert_count", 0):
        kind = f"{file.architecture!r}" + (" with experts" if tables else "")
        return [f"the architecture {kind} has no table of tensors here: names and shapes were not compared"]
    sizes = _sizes(file, layers, width, rows)
    faults = [_difference(file, table(sizes)) for table in tables]
    if all(faults):
        raise _senseless(file, next(fault for fault in faults if fault))
    return []


def _sizes(file: GgufFile, layers: int, width: int, vocabulary: int) -> Sizes:
    heads = _number(file, "attention.head_count", 1, width)
    kv_heads = _number(file, "attention.head_count_kv", 1, heads, default=heads)
    head = file.field("attention.key_length", width // heads)
    value = file.field("attention.value_length", head)
    _require(
        file,
        head == value,
        f"its key size is {head} and its value size {value}; expected equal sizes (llama.cpp aborts otherwise)",
    )
    rotated = file.field("rope.dimension_count", head)
    _require(
        file,
        rotated % 2 == 0 or file.architecture in ("bloom", "bert"),
        f"its head size is {head}; expected an even number",
    )
    sound = rotated == head or (file.architecture in _PARTLY_ROTATED and rotated < head)
    _require(
        file,
        sound,
        f"rope.dimension_count is {rotated}; expected at most the head size {head} (llama.cpp aborts otherwise)",
    )
    return Sizes(
        layers=layers,
        width=width,
        ffn=_number(file, "feed_forward_length", 1, 16 * MAX_WIDTH),
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        value=value,
        vocabulary=vocabulary,
        context=file.field("context_length", 0),
        token_types=file.metadata.get("tokenizer.ggml.token_type_count", 0),
    )


def _difference(file: GgufFile, expected: Expected) -> str:
    """First difference between a file and a table, or ""."""
    missing = [name for name in expected.required if name not in file.tensors]
    if missing:
        return f"the tensor {missing[0]!r} is missing"
    known = {**expected.optional, **expected.required}
    for name, tensor in file.tensors.items():
        shape = known.get(name, ())
        if not shape:
            return f"the tensor {name!r} belongs to no {file.architecture} model"
        if tensor.shape != shape:
            return f"the tensor {name!r} has the shape {tensor.shape} where {shape} was due"
    return ""


def _per_layer(file: GgufFile, name: str, layers: int, most: int) -> list[int]:
    value = file.field(name)
    if value is None:
        return [0] * layers if name == "attention.head_count" else []
    counts = value if isinstance(value, list) else [value] * layers
    _require(file, len(counts) == layers, f"{name} has {len(counts)} entries; expected {layers}, one per layer")
    _require(file, all(type(n) is int and 0 <= n <= most for n in counts), f"{name} is {value!r}")
    return counts


def _number(file: GgufFile, name: str, least: int, most: int, default: int | None = None) -> int:
    value = file.field(name, default)
    if type(value) is not int or not least <= value <= most:
        raise _senseless(file, f"{name} is {value!r}; expected a number from {least} to {most}")
    return value


def _require(file: GgufFile, condition: Any, why: str) -> None:
    if not condition:
        raise _senseless(file, why)


def _senseless(file: GgufFile, why: str) -> Damaged:
    return Damaged(
        f"{file.path.name} is inconsistent: {why[:500]}.",
        hint="Download it again (ninestory pull), or compare its sha256 with the publisher's.",
        hint_zh="请重新下载（ninestory pull），或与发布者的 sha256 比对。",
        code="damaged_gguf",
    )
