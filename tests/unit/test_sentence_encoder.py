"""Sentence-transformers and cross-encoder directories by ONNX, against transformers' own models of the same weights."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import NinestoryError, Unsupported
from ninestory.core.paths import Home
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import EmbeddingRequest, Embeddings, Relevance, RerankRequest

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "paris", "is", "the", "capital", "of", "france", "dogs", "bark", "茶", "叶"]
TEXTS = ["paris is the capital of france", "dogs bark", "茶 叶"]


def _checkpoint(folder: Path, family: str, score: bool) -> Any:
    """A random model of two layers in `folder`, with a word tokenizer; gives transformers' model back."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    prefix = {"bert": "Bert", "xlm-roberta": "XLMRoberta"}[family]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=len(WORDS), max_position_embeddings=34, pad_token_id=1, num_labels=1, **sizes
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix}{'ForSequenceClassification' if score else 'Model'}")(config).eval()
    for name, parameter in model.named_parameters():  # biases and norms of a fresh model are 0 and 1: hide nothing
        if name.endswith("bias") or "LayerNorm" in name:
            parameter.data += torch.randn_like(parameter) * 0.2
    model.save_pretrained(folder)
    return model, tokenizer


def _tokens(ids: list[int], kinds: list[int], family: str) -> dict[str, Any]:
    import torch

    given = {"input_ids": torch.tensor([ids])}
    return given | ({"token_type_ids": torch.tensor([kinds])} if family == "bert" else {})


@pytest.mark.torch
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_sentence_transformers_directory_embeds_as_transformers_does(
    tmp_path: Path, family: str, pooling: str
) -> None:
    import torch

    model, tokenizer = _checkpoint(tmp_path / "model", family, score=False)
    (tmp_path / "model" / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "cls"}
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [
        {"path": "1_Pooling" if k == "Pooling" else "", "type": f"sentence_transformers.models.{k}"} for k in kinds
    ]
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    prompts = {"prompts": {"query": "the ", "document": ""}}
    (tmp_path / "model" / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    engine = load_engine(resolve(str(tmp_path / "model"), Home(tmp_path / "home")), RuntimeSettings(threads=1))
    assert engine.info.context == (34 if family == "bert" else 32)
    for role, prompt in (("passage", ""), ("query", "the ")):
        request = EmbeddingRequest(inputs=TEXTS, role=role)  # type: ignore[arg-type]
        (answer,) = engine.run(request, threading.Event())
        assert isinstance(answer, Embeddings)
        for text, vector in zip(TEXTS, answer.vectors, strict=True):
            encoded = tokenizer.encode(prompt + text)
            with torch.no_grad():
                hidden = model(**_tokens(encoded.ids, encoded.type_ids, family)).last_hidden_state[0]
            expected = (hidden.mean(0) if pooling == "mean" else hidden[0]).numpy()
            np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-5)
    engine.close()


@pytest.mark.torch
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_cross_encoder_scores_as_transformers_does(tmp_path: Path, family: str) -> None:
    import torch

    model, tokenizer = _checkpoint(tmp_path / "model", family, score=True)
    resolved = resolve(str(tmp_path / "model"), Home(tmp_path / "home"))
    assert resolved.task == "rerank"
    engine = load_engine(resolved, RuntimeSettings(threads=1))
    request = RerankRequest(query="the capital", documents=[*TEXTS, "bark " * 100])
    (answer,) = engine.run(request, threading.Event())
    assert isinstance(answer, Relevance)
    for text, value in zip(TEXTS, answer.values, strict=False):
        pair = tokenizer.encode("the capital", text)
        with torch.no_grad():
            logit = model(**_tokens(pair.ids, pair.type_ids, family)).logits[0, 0]
        assert value == pytest.approx(float(torch.sigmoid(logit)), abs=2e-5)
    with pytest.raises(Unsupported, match="it takes rerank"):
        list(engine.run(EmbeddingRequest(inputs=["x"]), threading.Event()))
    engine.close()


@pytest.mark.torch
def test_what_is_not_built_in_is_named(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "model", "bert", score=False)
    (tmp_path / "model" / "modules.json").write_text(json.dumps([{"path": "2_Dense", "type": "x.Dense"}]))
    with pytest.raises(Unsupported, match="Dense"):
        resolve(str(tmp_path / "model"), Home(tmp_path / "home"))
    (tmp_path / "model" / "modules.json").unlink()
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(NinestoryError, match=r"tokenizer\.json"):
        resolve(str(tmp_path / "model"), Home(tmp_path / "home"))
