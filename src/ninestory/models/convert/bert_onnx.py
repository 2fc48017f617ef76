"""A BERT encoder as an ONNX graph of ONNX Runtime's fused operators, without torch: embeddings and cross-encoders.

One text per run and no padding: larger batches are slower on one core and would need masks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ninestory.core.paths import sync_directory
from ninestory.core.scratch import ScratchFolder

Pooling = Literal["mean", "cls", "score"]
Precision = Literal["int8", "fp32"]
_MS = "com.microsoft"


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Configuration and tensors of an encoder.

    Attributes:
        words: float32 rows of the word table in blocks, from the first row on: in float32 the whole table of a
            multilingual model takes more memory than all else.
        tensor: float32 values by name: positions, types, norm.weight/bias; of layer i "i/query.weight" and
            likewise key, value, attention, attention_norm, inner, outer, outer_norm; of a cross-encoder
            head.weight/bias and score.weight/bias. Weights are [out, in].
        first_position: row of the position table that the first token takes (2 in RoBERTa's).
        segments: the second text of a pair has a token type of its own.
        pooling: "mean" and "cls" give a unit vector; "score" gives one logit, through a tanh layer on the first token.
    """

    layers: int
    heads: int
    hidden: int
    epsilon: float
    words: Callable[[], Iterator[Any]]
    tensor: Callable[[str], Any]
    pooling: Pooling
    first_position: int = 0
    segments: bool = False


def write_encoder(encoder: Encoder, path: Path, precision: Precision) -> None:
    """Save an encoder's graph: input_ids int64 [1, tokens] (and token_type_ids, with segments) → vector [1, hidden]
    and token_vectors [1, tokens, hidden], or score [1].

    In int8 the matrices are quantised per channel, the word table as a whole, and activations as they come.
    """
    import onnx

    model = _Graph(encoder, precision).model()
    if precision == "fp32":
        onnx.save(model, path)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_name("plain.onnx")
    onnx.save(model, plain)  # not kept: its weights are four times as large
    del model
    loud = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a preprocessing that these graphs do not need
    try:
        quantize_dynamic(
            plain,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Attention"],
            # the contrib operators have no inferred type, hence the default; activations stay float
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
    finally:
        logging.disable(loud)
    plain.unlink()


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Fill `folder` with `make`, in a temporary folder that is renamed when complete; safe across processes."""
    if not (folder / "ninestory.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with ScratchFolder(".making-", folder.parent) as made:
            try:
                make(made)
                for file in made.iterdir():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
                made.replace(folder)
            except OSError:  # another process was faster: its folder is as good
                if not (folder / "ninestory.json").is_file():
                    raise
        sync_directory(folder.parent)
    return folder


def quantized_rows(blocks: Callable[[], Iterator[Any]]) -> tuple[Any, Any, Any]:
    """Quantise a table to uint8 with one scale (float32) and zero point (uint8), in two passes over its blocks.

    value ≈ (quantised - zero point) · scale over [smallest, largest], as ONNX Runtime's own quantisation has it.
    """
    import numpy as np

    low = high = 0.0  # zero must have a value of its own
    for block in blocks():
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    scale = (high - low) / 255 or 1.0
    zero_point = np.uint8(round(-low / scale))
    stored = np.float32(scale)
    parts = [np.clip(np.rint(block / stored) + zero_point, 0, 255).astype(np.uint8) for block in blocks()]
    return np.concatenate(parts), np.array(stored), np.array(zero_point)


class _Graph:
    """Builder of the graph; nodes are named after their output tensors."""

    def __init__(self, encoder: Encoder, precision: Precision) -> None:
        self._encoder, self._precision = encoder, precision
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def model(self) -> Any:
        from onnx import TensorProto, helper

        encoder = self._encoder
        inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])]
        if encoder.segments:
            inputs.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, [1, "tokens"]))
        x, lengths = self._embedded()
        for layer in range(encoder.layers):
            x = self._layer(f"{layer}/", x, lengths)
        outputs = self._pooled(x)
        graph = helper.make_graph(self._nodes, "encoder", inputs, outputs, self._weights)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_MS, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def _embedded(self) -> tuple[str, str]:
        """Add the normalised sum of the embeddings, and the token count that the attention uses as its mask."""
        import numpy as np
        from onnx import TensorProto

        encoder = self._encoder
        shape = self._node("Shape", ["input_ids"], "shape")
        one = self._constant("one", np.array([1], dtype=np.int64))
        tokens = self._node("Gather", [shape, one], "tokens", axis=0)  # [1]
        zero = self._constant("zero", np.array([0], dtype=np.int64))
        table = encoder.tensor("positions")[encoder.first_position :]
        positions = self._node("Slice", [self._constant("positions", table), zero, tokens, zero], "position")
        words = self._words()
        types = encoder.tensor("types")
        if encoder.segments:
            kinds = self._node("Gather", [self._constant("types", types), "token_type_ids"], "type")
        else:
            kinds = self._constant("type", types[0])
        summed = self._node("Add", [self._node("Add", [words, positions], "placed"), kinds], "typed")
        norm = [self._weight("norm.weight"), self._weight("norm.bias")]
        x = self._node("LayerNormalization", [summed, *norm], "embedded", epsilon=encoder.epsilon, axis=-1)
        return x, self._node("Cast", [tokens], "lengths", to=TensorProto.INT32)

    def _words(self) -> str:
        """Add the lookup of the ids in the word embedding, float32."""
        import numpy as np

        if self._precision == "fp32":
            table = np.concatenate(list(self._encoder.words()))
            return self._node("Gather", [self._constant("words", table), "input_ids"], "word")
        table, scale, zero_point = quantized_rows(self._encoder.words)
        rows = self._node("Gather", [self._constant("words_quantized", table), "input_ids"], "word_quantized")
        constants = [self._constant("words_scale", scale), self._constant("words_zero_point", zero_point)]
        return self._node("DequantizeLinear", [rows, *constants], "word")

    def _layer(self, name: str, x: str, lengths: str) -> str:
        import numpy as np

        encoder, parts = self._encoder, ("query", "key", "value")
        packed = np.concatenate([encoder.tensor(f"{name}{part}.weight").T for part in parts], axis=1)
        bias = np.concatenate([encoder.tensor(f"{name}{part}.bias") for part in parts])
        qkv = [self._constant(f"{name}qkv.weight", packed), self._constant(f"{name}qkv.bias", bias)]
        a = self._node("Attention", [x, *qkv, lengths], f"{name}attended", _MS, num_heads=encoder.heads)
        a = self._matrix(a, f"{name}attention")
        x = self._added_norm(a, x, f"{name}attention")
        inner = self._matrix(x, f"{name}inner")
        inner = self._node("BiasGelu", [inner, self._weight(f"{name}inner.bias")], f"{name}gelu", _MS)
        return self._added_norm(self._matrix(inner, f"{name}outer"), x, f"{name}outer")

    def _pooled(self, x: str) -> list[Any]:
        import numpy as np
        from onnx import TensorProto, helper

        hidden = self._encoder.hidden
        if self._encoder.pooling == "score":
            first = self._node("Gather", [x, self._constant("first", np.array(0, dtype=np.int64))], "start", axis=1)
            head = self._node("Add", [self._matrix(first, "head"), self._weight("head.bias")], "head_biased")
            head = self._node("Tanh", [head], "head_bent")
            scored = self._node("Add", [self._matrix(head, "score"), self._weight("score.bias")], "scored")
            self._node("Reshape", [scored, self._constant("flat", np.array([1], dtype=np.int64))], "score")
            return [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])]
        if self._encoder.pooling == "mean":
            axis = self._constant("axis", np.array([1], dtype=np.int64))
            pooled = self._node("ReduceMean", [x, axis], "pooled", keepdims=0)
        else:
            first = self._constant("first", np.array(0, dtype=np.int64))
            pooled = self._node("Gather", [x, first], "pooled", axis=1)
        self._node("LpNormalization", [pooled], "vector", axis=-1, p=2)
        self._node("Identity", [x], "token_vectors")
        return [
            helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, hidden]),
            helper.make_tensor_value_info("token_vectors", TensorProto.FLOAT, [1, "tokens", hidden]),
        ]

    def _matrix(self, x: str, name: str) -> str:
        weight = self._constant(f"{name}.weight", self._encoder.tensor(f"{name}.weight").T)
        return self._node("MatMul", [x, weight], f"{name}.product")

    def _added_norm(self, x: str, skip: str, name: str) -> str:
        norm = [self._weight(f"{name}_norm.weight"), self._weight(f"{name}_norm.bias"), self._weight(f"{name}.bias")]
        epsilon = self._encoder.epsilon
        return self._node("SkipLayerNormalization", [x, skip, *norm], f"{name}_normed", _MS, epsilon=epsilon)

    def _weight(self, name: str) -> str:
        return self._constant(name, self._encoder.tensor(name))

    def _constant(self, name: str, value: Any) -> str:
        import numpy as np
        from onnx import numpy_helper

        # np.ascontiguousarray would turn a scalar into a vector of one.
        self._weights.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output
