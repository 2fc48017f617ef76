"""What is converted from the original code's checkpoints gives what the original code gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ninestory.core.errors import Unsupported
from ninestory.models.convert.chatglm import quantize_chatglm
from ninestory.models.convert.to_gguf import convert_to_gguf
from ninestory.models.verify import verify
from ninestory.runtimes.llamacpp.logits import next_token_logprobs

from .conftest import FIXTURES

EXACT, GELU = 1e-4, 5e-3  # llama.cpp's table of GELU is in half precision


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("bits", [4, 8])
def test_chatglms_published_layout_is_made_bit_for_bit(bits: int, tmp_path: Path) -> None:
    source = tmp_path / "chatglm"
    source.mkdir()
    for name in ("config.json", "model.safetensors", "ice_text.model"):
        shutil.copy(FIXTURES / "chatglm" / name, source)
    made = load_file(quantize_chatglm(source, tmp_path / "made", bits) / "model.safetensors")
    expected = load_file(FIXTURES / "chatglm" / f"model_int{bits}.safetensors")
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        assert made[name].dtype == value.dtype and np.array_equal(made[name], value), name


def moss_folder(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt"):
        shutil.copy(FIXTURES / "moss" / name, folder)
    return folder


def test_moss_runs_on_llama_cpp_as_phi2(tmp_path: Path) -> None:
    cases = json.loads((FIXTURES / "moss" / "cases.json").read_text())
    expected = load_file(FIXTURES / "moss" / "outputs.safetensors")["full.logits"][0]  # [tokens, vocabulary]
    [ids] = cases["full"]["input_ids"]
    report = convert_to_gguf(moss_folder(tmp_path / "moss"), tmp_path / "moss.gguf", "F32")
    assert report.architecture == "phi2"
    verify(report.path)
    actual = next_token_logprobs(report.path, [ids[: i + 1] for i in range(len(ids))], expected.shape[1])
    np.testing.assert_allclose(actual, log_softmax(expected), atol=GELU, rtol=0)
    assert (actual.argmax(1) == expected.argmax(1)).all()


def world_vocabulary(folder: Path, rows: int) -> Path:
    """The first entries of RWKV's World vocabulary: the single bytes, then made-up words."""
    folder.mkdir()
    entries = [bytes([i]) for i in range(min(256, rows - 1))] + [f"w{i}".encode() for i in range(rows - 257)]
    lines = [f"{number} {entry!r} {len(entry)}" for number, entry in enumerate(entries, 1)]
    (folder / "rwkv_vocab_v20230424.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_rwkv_6_runs_on_llama_cpp(tmp_path: Path) -> None:
    assert_runs_like_the_original("v6", "rwkv6", tmp_path)


def test_rwkv_7_runs_on_llama_cpp_or_is_refused_for_its_narrow_heads(tmp_path: Path) -> None:
    folder = FIXTURES / "rwkv" / "v7"
    if load_file(folder / "model.safetensors")["blocks.0.att.r_k"].shape[1] % 32 == 0:
        assert_runs_like_the_original("v7", "rwkv7", tmp_path)
        return
    with pytest.raises(Unsupported, match="expected a multiple of 32"):
        convert_to_gguf(folder / "model.pth", tmp_path / "out.gguf")


def assert_runs_like_the_original(version: str, architecture: str, tmp_path: Path) -> None:
    folder = FIXTURES / "rwkv" / version
    case, expected = json.loads((folder / "case.json").read_text()), load_file(folder / "outputs.safetensors")
    logits = expected["rnn.logits"]
    words = world_vocabulary(tmp_path / "words", logits.shape[1])
    report = convert_to_gguf(folder / "model.safetensors", tmp_path / "out.gguf", "F32", tokenizer=words)
    assert report.architecture == architecture
    verify(report.path)
    ids = [*case["tokens"], *case["greedy_16"]]
    prompts = [ids[: i + 1] for i in range(len(ids) - 1)]
    actual = next_token_logprobs(report.path, prompts, logits.shape[1])
    told = len(case["tokens"])
    np.testing.assert_allclose(actual[:told], log_softmax(logits), atol=EXACT, rtol=0)
    assert actual[told - 1 :].argmax(1).tolist() == case["greedy_16"]


@pytest.mark.torch
def test_rwkv_7_of_wide_heads_runs_on_llama_cpp(tmp_path: Path) -> None:
    """The original's weights with their narrow heads taken as one: another model, which our own RWKV-7 runs too."""
    torch = pytest.importorskip("torch")
    from safetensors.numpy import save_file

    from ninestory.architectures.rwkv_checkpoint import load_rwkv

    weights = load_file(FIXTURES / "rwkv" / "v7" / "model.safetensors")
    heads = {name: value for name, value in weights.items() if name.endswith("att.r_k")}
    weights |= {name: value.reshape(1, -1) for name, value in heads.items()}
    source = tmp_path / "model.safetensors"
    save_file(weights, source)
    rows, width = weights["emb.weight"].shape
    if width % 32:  # of another set of fixtures: still too narrow
        with pytest.raises(Unsupported, match="heads"):
            convert_to_gguf(source, tmp_path / "out.gguf", "F32")
        return
    report = convert_to_gguf(source, tmp_path / "out.gguf", "F32", tokenizer=world_vocabulary(tmp_path / "words", rows))
    ids = np.random.default_rng(0).integers(1, rows, 12).tolist()
    with torch.no_grad():
        logits = load_rwkv(source, dtype=torch.float32)(torch.tensor([ids])).logits[0].numpy()
    actual = next_token_logprobs(report.path, [ids[: i + 1] for i in range(len(ids))], rows)
    np.testing.assert_allclose(actual, log_softmax(logits), atol=EXACT, rtol=0)


@pytest.mark.torch
def test_ids_of_rwkvs_world_vocabulary_are_llama_cpps(tmp_path: Path) -> None:
    """The packaged vocabulary with the fixture's network behind a new embedding."""
    from safetensors.numpy import save_file

    from ninestory.tokenizers.rwkv import WORLD_ROWS, WorldTokenizer, packaged_world_vocabulary

    from ..e2e.random_checkpoints import nasty_strings, tokens_by_llama_cpp

    weights = load_file(FIXTURES / "rwkv" / "v6" / "model.safetensors")
    table = np.random.default_rng(0).standard_normal((WORLD_ROWS, weights["emb.weight"].shape[1])).astype(np.float32)
    save_file({**weights, "emb.weight": table, "head.weight": table}, tmp_path / "model.safetensors")
    report = convert_to_gguf(tmp_path / "model.safetensors", tmp_path / "out.gguf")
    tokenizer, texts = WorldTokenizer(packaged_world_vocabulary()), nasty_strings(500)
    different = [
        (text, ours, theirs)
        for text, theirs in zip(texts, tokens_by_llama_cpp(report.path, texts), strict=True)
        if (ours := tokenizer.encode(text)) != theirs
    ]
    assert not different, f"{len(different)} of {len(texts)} differ, the first: {different[0]}"
