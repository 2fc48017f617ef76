"""A sentence-transformers directory, or a cross-encoder's, of the BERT and XLM-RoBERTa families → an ONNX folder.

The folder is kept in the cache under what the directory holds; `runtimes/onnx/engine.py` opens it, without torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, Unsupported
from ninestory.core.paths import Home
from ninestory.models.convert.bert_onnx import Encoder, Pooling, made_once, write_encoder
from ninestory.models.pickle_reader import read_pickle
from ninestory.models.pickle_reader import read_tensor as read_pickled
from ninestory.models.safetensors_reader import read_header, read_tensor

FAMILIES = ("bert", "xlm-roberta", "roberta", "camembert")
_WORDS = "embeddings.word_embeddings.weight"
EMBEDDED_NAMES = {
    "words": "word_embeddings.weight",
    "positions": "position_embeddings.weight",
    "types": "token_type_embeddings.weight",
    "norm.weight": "LayerNorm.weight",
    "norm.bias": "LayerNorm.bias",
}
LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}
_HEADS = (("pooler.dense", "classifier"), ("classifier.dense", "classifier.out_proj"))


@dataclass(frozen=True)
class _Tensors:
    names: frozenset[str]
    read: Callable[[str], Any]  # float32


def is_sentence_encoder(config: dict[str, Any]) -> bool:
    """Whether a config.json describes a supported encoder."""
    architectures = config.get("architectures") or ["BertModel"]
    kinds = ("Model", "ForMaskedLM", "ForSequenceClassification")
    return config.get("model_type") in FAMILIES and str(architectures[0]).endswith(kinds)


def sentence_encoder_folder(path: Path, config: dict[str, Any], home: Home) -> Path:
    """Convert the directory to an ONNX folder in float32.

    Raises:
        Unsupported: a part of the directory that is not built in, by name.
        Damaged: tensors or the tokenizer are missing.
    """
    weights = next((file for name in ("*.safetensors", "*.bin") for file in sorted(path.glob(name))), None)
    if weights is None or not (path / "tokenizer.json").is_file():
        raise Damaged(
            f"{path.name} lacks {'its weights' if weights is None else 'tokenizer.json'}.",
            hint="Complete the directory: config.json, tokenizer.json and model.safetensors.",
            hint_zh="请补全目录：config.json、tokenizer.json 和 model.safetensors。",
        )
    stat = weights.stat()
    told = "".join(f.read_text(encoding="utf-8") for f in sorted(path.rglob("*.json")) if f.name != "tokenizer.json")
    key = hashlib.sha256(f"{weights.resolve()} {stat.st_size} {stat.st_mtime_ns} {told}".encode()).hexdigest()[:16]
    return made_once(home.cache / "onnx" / f"dir-{key}", lambda made: _convert(path, weights, config, made))


def _convert(path: Path, weights: Path, config: dict[str, Any], folder: Path) -> None:
    tensors = _open(weights)
    scores = "score.weight" in _names(tensors)
    encoder = _encoder(config, tensors, "score" if scores else _pooling(path))
    write_encoder(encoder, folder / "model.onnx", "fp32")
    shutil.copyfile(path / "tokenizer.json", folder / "tokenizer.json")
    rows = int(config["max_position_embeddings"]) - encoder.first_position
    prompts = _json(path / "config_sentence_transformers.json").get("prompts") or {}
    described = {
        "task": "rerank" if scores else "embedding",
        "architecture": config["model_type"],
        "dimensions": encoder.hidden,
        "positions": min(rows, int(_json(path / "sentence_bert_config.json").get("max_seq_length") or rows)),
        "query_prefix": prompts.get("query", ""),
        "passage_prefix": prompts.get("passage", prompts.get("document", "")),
    }
    (folder / "ninestory.json").write_text(json.dumps(described))


def _encoder(config: dict[str, Any], tensors: _Tensors, pooling: Pooling) -> Encoder:
    if config.get("hidden_act", "gelu") != "gelu" or config.get("position_embedding_type", "absolute") != "absolute":
        raise Unsupported(
            f"An encoder with {config.get('hidden_act')} and {config.get('position_embedding_type')} positions "
            "is not supported.",
            hint="Use a BERT or XLM-RoBERTa encoder with gelu and absolute positions, or a GGUF of this one.",
            hint_zh="请使用 gelu 与绝对位置的 BERT 或 XLM-RoBERTa 编码器，或该模型的 GGUF。",
        )
    names = _names(tensors)

    def tensor(name: str) -> Any:
        if name not in names:
            raise Damaged(f"The tensor for {name!r} is missing.", hint="Complete the download.", hint_zh="请补全下载。")
        return tensors.read(names[name])

    if pooling == "score" and tensor("score.weight").shape[0] != 1:
        raise Unsupported(
            f"This classifier has {tensor('score.weight').shape[0]} labels; expected 1 for a reranker.",
            hint="Use a cross-encoder trained for ranking.",
            hint_zh="请使用为排序训练的交叉编码器。",
        )
    bert = config["model_type"] == "bert"
    return Encoder(
        layers=int(config["num_hidden_layers"]),
        heads=int(config["num_attention_heads"]),
        hidden=int(config["hidden_size"]),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        words=lambda: iter([tensor("words")]),
        tensor=tensor,
        pooling=pooling,
        first_position=0 if bert else int(config.get("pad_token_id", 1)) + 1,  # RoBERTa counts from the padding's id
        segments=bert and pooling == "score",
    )


def _names(tensors: _Tensors) -> dict[str, str]:
    """The encoder's names for its tensors → the file's."""
    prefix = next((name.removesuffix(_WORDS) for name in tensors.names if name.endswith(_WORDS)), "")
    found = {ours: f"{prefix}embeddings.{theirs}" for ours, theirs in EMBEDDED_NAMES.items()}
    layers = {name.split("encoder.layer.")[1].split(".")[0] for name in tensors.names if "encoder.layer." in name}
    for layer in layers:
        for ours, theirs in LAYER_NAMES.items():
            for kind in ("weight", "bias"):
                found[f"{layer}/{ours}.{kind}"] = f"{prefix}encoder.layer.{layer}.{theirs}.{kind}"
    for head, score in _HEADS:
        head = f"{prefix}{head}" if head.startswith("pooler") else head
        for kind in ("weight", "bias"):
            if f"{score}.{kind}" in tensors.names:
                found |= {f"head.{kind}": f"{head}.{kind}", f"score.{kind}": f"{score}.{kind}"}
    return {ours: theirs for ours, theirs in found.items() if theirs in tensors.names}


def _pooling(path: Path) -> Pooling:
    """Pooling mode and normalisation from a sentence-transformers directory's modules; "mean" without modules."""
    modules: Any = _json(path / "modules.json") or []
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    if other := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise Unsupported(
            f"The sentence-transformers module {other[0]} is not supported.",
            hint="Use a model of Transformer, Pooling and Normalize.",
            hint_zh="请使用仅含 Transformer、Pooling、Normalize 的模型。",
        )
    folder = next((m["path"] for m, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), "1_Pooling")
    told = _json(path / Path(folder).name / "config.json")
    on = [key.removeprefix("pooling_mode_") for key, value in told.items() if key.startswith("pooling_mode") and value]
    if on and on not in (["mean_tokens"], ["cls_token"]):
        raise Unsupported(
            f"{' and '.join(map(str, on))} pooling is not supported.", hint="Use a model with mean or cls pooling."
        )
    return "cls" if on == ["cls_token"] else "mean"


def _open(weights: Path) -> _Tensors:
    import numpy as np

    if weights.suffix == ".safetensors":
        file = read_header(weights)

        def read(name: str) -> Any:
            value = read_tensor(file, name)
            if file.tensors[name].dtype == "BF16":
                value = (value.astype(np.uint32) << 16).view(np.float32)
            return np.asarray(value, dtype=np.float32)

        return _Tensors(frozenset(file.tensors), read)
    pickled = read_pickle(weights)

    @functools.cache
    def read_one(name: str) -> Any:
        return np.asarray(read_pickled(pickled, name), dtype=np.float32)

    return _Tensors(frozenset(pickled.tensors), read_one)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
