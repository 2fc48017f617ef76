"""The ONNX embedding engine on a graph of three words, and on the starter."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, ContextOverflow, Damaged, InvalidRequest, Unsupported
from ninestory.core.paths import Home
from ninestory.models.reference import parse_reference
from ninestory.models.resolve import resolve
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.onnx.engine import OnnxEmbeddingEngine
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    EmbeddingRequest,
    Embeddings,
    Message,
    Request,
    TokenizeRequest,
    Tokens,
)

WORDS = ["query:", "passage:", "cat", "dog", "[UNK]"]
VECTORS = np.array([[0, 0, 2], [0, 0, -2], [1, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the form that `models/convert/e5_onnx.py` writes: word vectors, their mean, made a unit."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("onnx")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("ReduceMean", ["words", "axis"], ["mean"], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], ["vector"], axis=-1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(VECTORS, "table"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "model.onnx"
    )
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"positions": 4, "query_prefix": "query: ", "passage_prefix": "passage: ", "architecture": "words"}
    (folder / "ninestory.json").write_text(json.dumps(described))
    return folder


def resolved(folder: Path) -> ResolvedModel:
    return ResolvedModel(
        reference="words", path=folder, format="onnx", architecture="words", tasks=("embedding",), context=4
    )


@pytest.fixture
def engine(folder: Path) -> Iterator[OnnxEmbeddingEngine]:
    engine = OnnxEmbeddingEngine(resolved(folder), RuntimeSettings(threads=1))
    yield engine
    engine.close()


def run(engine: OnnxEmbeddingEngine, request: Request) -> list[Chunk]:
    return list(engine.run(request, threading.Event()))


def embed(engine: OnnxEmbeddingEngine, inputs: Any, **fields: Any) -> Embeddings:
    [answer] = run(engine, EmbeddingRequest(inputs=inputs, **fields))
    assert isinstance(answer, Embeddings)
    return answer


def test_vectors_are_means_of_unit_length_and_tokens_are_counted(engine: OnnxEmbeddingEngine) -> None:
    answer = embed(engine, ["cat", "cat dog"])
    assert answer.vectors[0] == pytest.approx([1, 0, 0])
    assert answer.vectors[1] == pytest.approx([math.sqrt(0.5), math.sqrt(0.5), 0])
    assert answer.prompt_tokens == 3


def test_a_role_puts_its_prefix_before_the_text(engine: OnnxEmbeddingEngine) -> None:
    assert embed(engine, ["cat"], role="query").vectors[0] == pytest.approx([1 / 5**0.5, 0, 2 / 5**0.5])
    assert embed(engine, ["cat"], role="passage").vectors[0] == pytest.approx([1 / 5**0.5, 0, -2 / 5**0.5])


def test_ids_are_taken_as_they_are_and_checked(engine: OnnxEmbeddingEngine) -> None:
    assert embed(engine, [[2, 3]]).vectors == embed(engine, ["cat dog"]).vectors
    for wrong in ([[5]], [[-1]]):
        with pytest.raises(InvalidRequest, match="token id"):
            embed(engine, wrong)
    with pytest.raises(Unsupported, match="query"):
        embed(engine, [[2]], role="query")


def test_a_text_longer_than_the_positions_is_refused_with_both_numbers(engine: OnnxEmbeddingEngine) -> None:
    with pytest.raises(ContextOverflow, match=r"Input 1 has 5 tokens.* 4"):
        embed(engine, ["cat", "cat dog cat dog cat"])
    with pytest.raises(ContextOverflow):
        embed(engine, [[]])


def test_it_counts_tokens_and_refuses_to_chat(engine: OnnxEmbeddingEngine) -> None:
    [tokens] = run(engine, TokenizeRequest(text="cat bird"))
    assert tokens == Tokens(ids=[2, 4], pieces=["cat", "[UNK]"])
    with pytest.raises(Unsupported, match="chat"):
        run(engine, ChatRequest(messages=[Message(role="user", content="Hi")]))


def test_cancel_stops_between_texts(engine: OnnxEmbeddingEngine) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        list(engine.run(EmbeddingRequest(inputs=["cat"]), cancel))


@pytest.mark.parametrize("text", ["", "[]", '{"positions": 4}', '{"positions": "4", "query_prefix": 1}'])
def test_a_folder_that_is_not_described_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "ninestory.json").write_text(text)
    with pytest.raises(Damaged, match=r"ninestory\.json"):
        OnnxEmbeddingEngine(resolved(tmp_path), RuntimeSettings(threads=1))


@pytest.mark.slow
@pytest.mark.starter
def test_the_starter_finds_a_passage_across_languages(tmp_path: Path) -> None:
    model = resolve(parse_reference("starter:multilingual-e5-small:fp32"), Home(tmp_path))
    engine = OnnxEmbeddingEngine(model, RuntimeSettings(threads=1))
    [query] = embed(engine, ["How do I reset my password?"], role="query").vectors
    passages = embed(engine, ["苹果是一种水果。", "要重置密码，请点击登录页上的链接。"], role="passage").vectors
    scores = [sum(a * b for a, b in zip(query, passage, strict=True)) for passage in passages]
    assert scores[1] > scores[0] + 0.02
    assert sum(x * x for x in query) == pytest.approx(1.0, abs=1e-4)
