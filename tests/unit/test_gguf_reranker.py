"""Cross-encoders as GGUF in llama.cpp, against transformers' own model of the same weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Damaged, Unsupported
from ninestory.core.paths import Home
from ninestory.floors.retrieval.rerank import scorer
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import EmbeddingRequest, Relevance, RerankRequest

PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁paris",
    "▁is",
    "▁the",
    "▁capital",
    "▁of",
    "▁france",
    "▁dogs",
    "▁bark",
    "▁茶",
    "叶",
]
PAIRS = {"paris is the capital of france": [4, 5, 6, 7, 8, 9], "dogs bark": [10, 11], "茶叶": [12, 13]}
RANK, MEAN = 4, 1
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
WHOLE = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "dense": "cls",
    "out_proj": "cls.output",
}


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights of the form of bge-reranker-v2-m3: XLM-RoBERTa with one score."""
    import torch
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.XLMRobertaConfig(
        vocab_size=len(PIECES), max_position_embeddings=66, pad_token_id=1, num_labels=1, type_vocab_size=1,
        layer_norm_eps=1e-5, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.XLMRobertaForSequenceClassification(config).eval()
    for name, parameter in model.named_parameters():  # biases and norms of a fresh model are 0 and 1: hide nothing
        scale = 0.2 if name.endswith("bias") or "LayerNorm" in name else 0.3
        parameter.data += torch.randn_like(parameter) * scale
    return model


def write_reranker(path: Path, model: Any, pooling: int | None = RANK, without: str = "-") -> Path:
    """The model as llama.cpp's converter lays it out: positions without XLM-RoBERTa's two unused rows."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config.max_position_embeddings - 2)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_token_type_count(1)
    if pooling is not None:
        writer.add_uint32("bert.pooling_type", pooling)
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(PIECES)
    writer.add_token_scores([0.0] * 4 + [-1.0] * (len(PIECES) - 4))
    writer.add_token_types([3, 3, 3, 2] + [1] * (len(PIECES) - 4))
    writer.add_add_space_prefix(True)
    for name, token in (("bos", 0), ("eos", 2), ("unk", 3), ("seperator", 2), ("padding", 1), ("cls", 0)):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(True)
    for key, value in model.state_dict().items():
        name, kind = key.removeprefix("roberta.").removeprefix("classifier.").rsplit(".", 1)
        if name.startswith("encoder.layer."):
            _, _, number, part = name.split(".", 3)
            name = f"blk.{number}.{LAYER[part]}"
        else:
            name = WHOLE[name]
        weights = value.numpy()[2:] if name == "position_embd" else value.numpy()
        if not name.startswith(without):
            writer.add_tensor(f"{name}.{kind}", weights.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def opened(path: Path, home: Path) -> Iterator[Any]:
    engine = load_engine(resolve(str(path), Home(home)), RuntimeSettings(threads=1))
    try:
        yield engine
    finally:
        engine.close()


@pytest.mark.torch
def test_a_gguf_cross_encoder_scores_as_transformers_does(tmp_path: Path, model: Any) -> None:
    import torch

    path = write_reranker(tmp_path / "reranker.gguf", model)
    resolved = resolve(str(path), Home(tmp_path))
    assert (resolved.task, resolved.context) == ("rerank", 64)
    with opened(path, tmp_path) as engine:
        (answer,) = engine.run(RerankRequest(query="the capital", documents=list(PAIRS)), threading.Event())
        assert isinstance(answer, Relevance)
        assert list(scorer(engine)("the capital", ["dogs bark"])) == [answer.values[1]]
    for ids, value in zip(PAIRS.values(), answer.values, strict=True):
        with torch.no_grad():
            logit = model(input_ids=torch.tensor([[0, 6, 7, 2, 2, *ids, 2]])).logits[0, 0]
        assert value == pytest.approx(float(torch.sigmoid(logit)), abs=5e-4)
    assert len({round(value, 3) for value in answer.values}) == 3
    assert answer.prompt_tokens == sum(6 + len(ids) for ids in PAIRS.values())


@pytest.mark.torch
def test_a_gguf_without_rank_pooling_is_no_reranker(tmp_path: Path, model: Any) -> None:
    assert resolve(str(write_reranker(tmp_path / "silent.gguf", model, None)), Home(tmp_path)).task == "embedding"
    with opened(write_reranker(tmp_path / "mean.gguf", model, MEAN), tmp_path) as engine:
        (vectors,) = engine.run(EmbeddingRequest(inputs=["paris"]), threading.Event())
        assert len(vectors.vectors[0]) == 32
        with pytest.raises(Unsupported, match="no reranker"):
            scorer(engine)
        with pytest.raises(Unsupported, match="rerank"):
            list(engine.run(RerankRequest(query="the", documents=["dogs"]), threading.Event()))


@pytest.mark.torch
def test_a_reranker_without_its_score_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(Damaged, match=r"cls\.output"):
        resolve(str(write_reranker(tmp_path / "cut.gguf", model, without="cls")), Home(tmp_path))
