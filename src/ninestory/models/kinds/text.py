"""Language, embedding and reranking models: GGUF files, causal checkpoints, RWKV's lone files, sentence encoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ninestory.core.json_file import read_json
from ninestory.core.tasks import Task
from ninestory.models.convert.sentence_encoder import FAMILIES as ENCODER_FAMILIES
from ninestory.models.convert.sentence_encoder import is_sentence_encoder
from ninestory.models.kinds.contents import Contents, ModelKind, contents_of, is_gguf

CHAT: tuple[Task, ...] = ("chat", "completion", "score")
EMBEDDING: tuple[Task, ...] = ("embedding", "rerank")  # reranking by late interaction of the token vectors
LOOKED_FOR = "a .gguf file; a config.json of a causal language model or a sentence encoder; RWKV's tensors"

_CAUSAL_FAMILIES = ("llama", "bloom", "falcon", "RefinedWebModel", "RefinedWeb", "gptj", "codegen", "moss", "chatglm")
FAMILIES: Mapping[str, tuple[Task, ...]] = {
    **dict.fromkeys((*_CAUSAL_FAMILIES, "rwkv", "remote"), CHAT),
    **dict.fromkeys(ENCODER_FAMILIES, EMBEDDING),
}
_CAUSAL_CLASSES = ("ForCausalLM", "LMHeadModel")
_GGUF_ENCODERS = {"bert", "nomic-bert", "jina-bert-v2", "xlm-roberta"}


def matches(path: Path) -> bool:
    """Whether this is a language, embedding or reranking model."""
    if path.is_file():
        return is_gguf(path) or _is_rwkv(contents_of(path))
    contents = contents_of(path)
    if _is_converted(path) or any(path.glob("*.gguf")) or is_sentence_encoder(dict(contents.config)):
        return True
    if contents.says_what_it_is:
        causal = contents.architecture.endswith(_CAUSAL_CLASSES)
        return causal or contents.model_type in _CAUSAL_FAMILIES
    return not contents.config and _is_rwkv(contents)


def describe(path: Path) -> ModelKind:
    """What a model that `matches` is."""
    if path.is_file() and is_gguf(path):
        return _gguf(path)
    if path.is_file():
        return ModelKind(CHAT, contents_of(path).format, "rwkv")
    if _is_converted(path):
        note = read_json(path / "ninestory.json")
        tasks: tuple[Task, ...] = ("rerank",) if note.get("task") == "rerank" else EMBEDDING
        return ModelKind(tasks, "onnx", str(note.get("architecture", "")))
    if ggufs := sorted(path.glob("*.gguf")):
        return _gguf(ggufs[0])
    contents = contents_of(path)
    if is_sentence_encoder(dict(contents.config)):
        ranks = contents.architecture.endswith("ForSequenceClassification")
        return ModelKind(("rerank",) if ranks else EMBEDDING, "onnx", contents.model_type)
    if not contents.says_what_it_is:
        return ModelKind(CHAT, contents.format, "rwkv")
    return ModelKind(CHAT, contents.format, contents.model_type or contents.architecture)


def gguf_tasks(architecture: str, pooling: object) -> tuple[Task, ...]:
    """Tasks of a GGUF by its header's architecture and pooling type."""
    from ninestory.models.gguf_semantics import POOLING_RANK

    if architecture not in _GGUF_ENCODERS:
        return CHAT
    return ("rerank",) if pooling == POOLING_RANK else ("embedding",)


def _gguf(file: Path) -> ModelKind:
    from ninestory.models.gguf_reader import read_gguf

    header = read_gguf(file)
    tasks = gguf_tasks(header.architecture, header.field("pooling_type"))
    return ModelKind(tasks, "gguf", header.architecture)


def _is_converted(path: Path) -> bool:
    """Whether a folder holds an ONNX encoder as `models/convert` writes it."""
    return (path / "ninestory.json").is_file() and (path / "model.onnx").is_file()


def _is_rwkv(contents: Contents) -> bool:
    return {"emb.weight", "blocks.0.ln1.weight"} <= contents.tensors
