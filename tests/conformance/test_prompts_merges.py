"""Weight differences, chained LoRA merges, the vocabulary and BELLE's encryption against the original scripts.

Data and tolerances: tests/fixtures/prompts/README.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ninestory.models.convert.belle import decrypt
from ninestory.models.convert.checkpoint import open_checkpoint
from ninestory.models.merge.delta import RECIPES, apply_delta, make_delta
from ninestory.models.merge.lora import merge_adapters
from ninestory.models.merge.vocabulary import merge_vocabularies, read_model

from .conftest import FIXTURES

FOLDER = FIXTURES / "prompts"
CHAIN = json.loads((FOLDER / "cla_lora_merge.json").read_text())
Arrays = dict[str, np.ndarray[Any, Any]]


def model_folder(path: Path, tensors: Arrays, config: dict[str, Any] | None = None) -> Path:
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **(config or {})}))
    return path


def group(tensors: Arrays, prefix: str) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def values(folder: Path) -> Arrays:
    return {n: np.array(t.view()) for n, t in open_checkpoint(folder).tensors.items()}


def test_vicunas_delta_is_added_bit_for_bit(tmp_path: Path) -> None:
    data = load_file(FOLDER / "vicuna_delta.safetensors")
    base, delta = (model_folder(tmp_path / n, group(data, f"{n}.")) for n in ("base", "delta"))
    report = apply_delta(base, delta, tmp_path / "out", RECIPES["vicuna"])
    result, expected = values(report.path), group(data, "result.")
    assert result.keys() == expected.keys()
    assert all(np.array_equal(result[k], expected[k]) for k in expected)


def test_vicunas_delta_is_made_bit_for_bit(tmp_path: Path) -> None:
    data = load_file(FOLDER / "vicuna_delta.safetensors")
    base, result = (model_folder(tmp_path / n, group(data, f"{n}.")) for n in ("base", "result"))
    made = values(make_delta(base, result, tmp_path / "out", RECIPES["vicuna"]).path)
    for name, delta in group(data, "base.").items():
        assert np.array_equal(made[name], data[f"result.{name}"] - delta)


def test_alpacas_difference_is_recovered_and_summed(tmp_path: Path) -> None:
    data, facts = (
        load_file(FOLDER / "alpaca_weight_diff.safetensors"),
        json.loads((FOLDER / "weight_diffs.json").read_text()),
    )
    raw, diff = (model_folder(tmp_path / n, group(data, f"{n}.")) for n in ("raw", "diff"))
    total = facts["recovered_sum_of_all_tensors"]
    report = apply_delta(raw, diff, tmp_path / "out", RECIPES["alpaca"], expected_sum=total, tolerance=1e-3)
    assert report.added_rows == facts["config"]["tuned_vocab"] - facts["config"]["raw_vocab"]
    result, expected = values(report.path), group(data, "tuned.")
    assert result.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(result[name], expected[name], atol=1e-6, rtol=0)


def test_alpacas_difference_is_made(tmp_path: Path) -> None:
    data = load_file(FOLDER / "alpaca_weight_diff.safetensors")
    raw, tuned = (model_folder(tmp_path / n, group(data, f"{n}.")) for n in ("raw", "tuned"))
    made = values(make_delta(raw, tuned, tmp_path / "out", RECIPES["alpaca"]).path)
    for name, expected in group(data, "diff.").items():
        np.testing.assert_allclose(made[name], expected, atol=1e-6, rtol=0)


def adapter_folder(path: Path, name: str) -> Path:
    path.mkdir(parents=True)
    save_file(load_file(FOLDER / f"{name}.safetensors"), path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(CHAIN["adapter_configs"][name]))
    return path


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path, Path]:
    sizes = CHAIN["config"]
    config = {
        "hidden_size": sizes["hidden_size"], "num_attention_heads": sizes["heads"], "num_hidden_layers": sizes["layers"],
        "intermediate_size": sizes["intermediate"], "vocab_size": sizes["base_vocab"],
        "rms_norm_eps": CHAIN["params_json"]["norm_eps"],
    }  # fmt: skip
    base = model_folder(tmp_path / "base", load_file(FOLDER / "cla_base_hf.safetensors"), config)
    return (
        base,
        adapter_folder(tmp_path / "llama", "cla_lora_llama"),
        adapter_folder(tmp_path / "alpaca", "cla_lora_alpaca"),
    )


def same(actual: Arrays, expected: Arrays) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        whole = any(part in name for part in ("embed_tokens", "lm_head", "tok_embeddings", "output"))
        np.testing.assert_allclose(
            actual[name].astype(np.float32), value.astype(np.float32), atol=0 if whole else 5e-4, rtol=0
        )


@pytest.mark.parametrize(("count", "expected"), [(1, "cla_merged_llama_hf"), (2, "cla_merged_alpaca_hf")])
def test_adapters_are_merged_in_order(
    chain: tuple[Path, Path, Path], tmp_path: Path, count: int, expected: str
) -> None:
    base, *adapters = chain
    report = merge_adapters(base, adapters[:count], tmp_path / "out")
    same(values(report.path), load_file(FOLDER / f"{expected}.safetensors"))
    config = json.loads((report.path / "config.json").read_text())
    assert config["vocab_size"] == report.vocabulary
    if count == 2:
        assert report.vocabulary == CHAIN["hf_config_vocab_after_merge"]


@pytest.mark.parametrize("shards", [1, 2])
def test_the_original_layout(chain: tuple[Path, Path, Path], tmp_path: Path, shards: int) -> None:
    base, *adapters = chain
    merge_adapters(base, adapters, tmp_path / "out", layout="consolidated", shards=shards)
    expected = load_file(FOLDER / f"cla_consolidated_{shards}shard.safetensors")
    for rank in range(shards):
        file = tmp_path / "out" / f"consolidated.{rank:02d}.pth"
        prefix = next((p for p in (f"shard{rank}.",) if any(k.startswith(p) for k in expected)), "")
        same(values(file), group(expected, prefix))
    assert json.loads((tmp_path / "out" / "params.json").read_text()) == CHAIN["params_json"]


@pytest.mark.torch
def test_torch_opens_the_original_layout(chain: tuple[Path, Path, Path], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base, *adapters = chain
    merge_adapters(base, adapters, tmp_path / "out", layout="consolidated", shards=1)
    file = tmp_path / "out" / "consolidated.00.pth"
    for mapped in (False, True):
        opened = torch.load(file, weights_only=True, mmap=mapped)
        for name, value in values(file).items():
            assert np.array_equal(opened[name].numpy(), value)


def test_the_vocabulary_is_merged_piece_by_piece(tmp_path: Path) -> None:
    import sentencepiece

    facts = json.loads((FOLDER / "chinese_vocab_merge.json").read_text())
    made = tmp_path / "tokenizer.model"
    report = merge_vocabularies(FOLDER / facts["base_model"], FOLDER / facts["chinese_model"], made)
    sizes = facts["sizes"]
    assert (report.base, report.added) == (sizes["base"], sizes["added"])
    assert report.skipped == len(facts["skipped_duplicates"])
    added = read_model(made).pieces[sizes["base"] :]
    assert [p.piece for p in added] == facts["added_pieces_in_order"]
    assert sorted({p.score for p in added}) == facts["added_scores"] and {p.type for p in added} == set(
        facts["added_types"]
    )
    assert made.read_bytes() == (FOLDER / facts["merged_model"]).read_bytes()
    model = sentencepiece.SentencePieceProcessor(model_file=str(made))
    for case in facts["encodings"]:
        assert model.encode(case["text"], out_type=str) == case["merged_pieces"]


@pytest.fixture
def belle(tmp_path: Path) -> tuple[Path, Path, dict[str, str]]:
    case = json.loads((FOLDER / "belle_xor_decrypt.json").read_text())
    (tmp_path / "enc").mkdir()
    (tmp_path / "enc" / case["encrypted_file_name"]).write_bytes(bytes.fromhex(case["encrypted_hex"]))
    (tmp_path / "key").write_bytes(bytes.fromhex(case["key_hex"]))
    return tmp_path / "enc", tmp_path / "key", case


def test_belles_release_is_decrypted(belle: tuple[Path, Path, dict[str, str]], tmp_path: Path) -> None:
    source, key, case = belle
    [made] = decrypt(source, key, tmp_path / "out")
    assert made.name == case["output_file_name"] and made.read_bytes() == bytes.fromhex(case["output_hex"])
