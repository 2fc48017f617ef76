"""Checkpoint directories of every family become models, every tensor accounted for; what does not fit is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import load_file, save_file

from ninestory.core.errors import Damaged, NinestoryError, Unsupported
from ninestory.core.paths import Home
from ninestory.models.resolve import resolve
from ninestory.runtimes.torch.load_model import LoadReport, check_vocabulary, load_model
from ninestory.tokenizers.load import load_tokenizer
from tests.conformance.conftest import FIXTURES
from tests.tiny_checkpoints import FAMILIES, random_weights, write_bin, write_json

pytestmark = pytest.mark.torch


def load(folder: Path, home: Path, **options: Any) -> tuple[Any, LoadReport]:
    return load_model(resolve(str(folder), Home(home)), **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_accounted_for(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / family)
    model, report = load(folder, tmp_path)
    files = [folder] if folder.is_file() else list(folder.glob("*.bin"))
    stored = {name for file in files for name in torch.load(file, weights_only=True)}
    assert {*report.loaded, *report.unused} == stored
    if family != "rwkv":  # whose names differ from the module's; its own reader refuses what is missing
        assert set(model.state_dict()) <= {*report.loaded.values(), *report.shared, *report.computed}
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers())) and not model.training
    assert {p.dtype for p in model.parameters() if p.requires_grad} <= {torch.float32}
    assert bool(report.packed) == ("int" in family)
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer = load_tokenizer(folder, rows)
    check_vocabulary(tokenizer, rows, family)
    ids = [*tokenizer.bos_ids, *tokenizer.encode("hello"), *tokenizer.suffix_ids]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits
    assert logits.shape[-1] >= tokenizer.vocab_size and torch.isfinite(logits).all() and logits.std() > 0.01


def test_the_weights_are_the_files(tmp_path: Path) -> None:
    """The oracle of ChatGLM's original code, through the loader."""
    folder = FAMILIES["chatglm"](tmp_path / "chatglm")
    model, _ = load(folder, tmp_path)
    cases = json.loads((FIXTURES / "chatglm/cases.json").read_text())
    oracle = load_file(FIXTURES / "chatglm/outputs.safetensors")
    name = next(n for n, case in cases.items() if case["kind"] == "full" and f"{n}.logits" in oracle)
    with torch.no_grad():
        logits = model(torch.tensor(cases[name]["input_ids"])).logits
    torch.testing.assert_close(logits, oracle[f"{name}.logits"].float(), atol=2e-4, rtol=0)


def test_types_are_as_asked(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path / "llama")
    half, _ = load(folder, tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_safetensors_and_pickles_give_the_same(tmp_path: Path) -> None:
    folder = FAMILIES["gptj"](tmp_path / "gptj")
    first, _ = load(folder, tmp_path)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    save_file({name: t.contiguous() for name, t in weights.items()}, folder / "model.safetensors")
    second, _ = load(folder, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_gptq_packs_of_a_llama(tmp_path: Path) -> None:
    """Packed linears stay packed and give what their dequantised weights give."""
    from ninestory.architectures.gptq_linear import GPTQLinear, dequantize

    folder = FAMILIES["llama"](tmp_path / "llama")
    plain, _ = load(folder, tmp_path)
    packed = {name: t for name, t in plain.state_dict().items() if "_proj" not in name}
    generator = torch.Generator().manual_seed(0)
    for name, module in plain.named_modules():
        if name.endswith("_proj"):
            made = GPTQLinear(module.in_features, module.out_features, 4, 32, bias=False)
            for key in ("qweight", "qzeros"):
                words = torch.randint(
                    -(2**31), 2**31 - 1, getattr(made, key).shape, generator=generator, dtype=torch.int32
                )
                packed[f"{name}.{key}"] = words
            packed[f"{name}.scales"] = torch.full_like(made.scales, 0.01)
            packed[f"{name}.g_idx"] = made.g_idx.data
            parts = [packed[f"{name}.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx")]
            module.weight.data = dequantize(*parts, 4, torch.float32).T.contiguous()
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    save_file({k: v.contiguous() for k, v in packed.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    model, report = load(folder, tmp_path)
    assert len(report.packed) == 7 * config["num_hidden_layers"]
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, atol=1e-4, rtol=1e-4)
    write_json(folder / "config.json", {**config, "quantization_config": {"quant_method": "awq", "bits": 4}})
    with pytest.raises(Unsupported, match="awq"):
        load(folder, tmp_path)


def test_the_first_release_of_falcon_40b(tmp_path: Path) -> None:
    """Its config.json has names of its own, and does not say what its model_type means."""
    from transformers import FalconConfig, FalconForCausalLM

    folder = FAMILIES["falcon"](tmp_path / "falcon")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"vocab_size": rows, "hidden_size": 64, "bias": False, "alibi": False, "parallel_attn": True}
    made = FalconConfig(
        **sizes, num_hidden_layers=1, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True
    )
    rewrite(folder, random_weights(FalconForCausalLM(made)))
    old = {**sizes, "n_layer": 1, "n_head": 4, "n_head_kv": 2, "model_type": "RefinedWeb"}
    write_json(folder / "config.json", old)
    model, report = load(folder, tmp_path)
    assert "transformer.h.0.ln_attn.weight" in report.loaded and model.config.num_kv_heads == 2


# --- what does not fit ------------------------------------------------------------------------------------------


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(folder.glob("*.bin")) for k, v in torch.load(file, weights_only=True).items()}


def rewrite(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    write_bin(folder, weights)


def test_missing_surplus_and_misshapen_tensors_are_refused(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path / "llama")
    weights = weights_of(folder)
    rewrite(folder, {k: v for k, v in weights.items() if k != "model.norm.weight"})
    with pytest.raises(Damaged, match=r"model\.norm\.weight"):
        load(folder, tmp_path)
    rewrite(folder, {**weights, "model.layers.0.extra.weight": torch.ones(2)})
    with pytest.raises(Damaged, match=r"layers\.0\.extra"):
        load(folder, tmp_path)
    rewrite(folder, {**weights, "model.norm.weight": torch.ones(3)})
    with pytest.raises(Damaged, match=r"model\.norm\.weight has the shape \(3,\)"):
        load(folder, tmp_path)


def test_an_embedding_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path / "llama")
    weights = weights_of(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat((weights[name], weights[name][:1]))
    rewrite(folder, weights)
    with pytest.raises(Damaged) as error:
        load(folder, tmp_path)
    assert error.value.code == "vocabulary_mismatch" and str(len(weights["lm_head.weight"])) in error.value.message


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path / "llama")
    tokenizer = load_tokenizer(folder)
    with pytest.raises(Damaged) as error:
        check_vocabulary(tokenizer, tokenizer.vocab_size - 1, "llama")
    assert error.value.code == "vocabulary_mismatch"


def test_a_stored_head_that_should_be_the_embedding_is_compared(tmp_path: Path) -> None:
    folder = FAMILIES["bloom"](tmp_path / "bloom")
    weights = weights_of(folder)
    rewrite(folder, {**weights, "lm_head.weight": weights["word_embeddings.weight"].clone()})
    _, report = load(folder, tmp_path)
    assert "lm_head.weight" in report.unused
    rewrite(folder, {**weights, "lm_head.weight": weights["word_embeddings.weight"] + 1})
    with pytest.raises(Damaged, match="tie_word_embeddings"):
        load(folder, tmp_path)


def test_a_truncated_shard_and_an_index_naming_a_missing_file(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path / "llama")
    shard = sorted(folder.glob("*.bin"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Damaged, match=shard.name):
        load(folder, tmp_path)
    shard.unlink()
    with pytest.raises(Damaged, match=shard.name):
        load(folder, tmp_path)


def test_code_beside_the_weights_never_runs(tmp_path: Path) -> None:
    """config.json's auto_map, a module of the checkpoint's and a pickle that calls: the canary stays absent."""
    canary = tmp_path / "canary"
    folder = FAMILIES["falcon"](tmp_path / "falcon")
    (folder / "modelling_RW.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n")
    load(folder, tmp_path)
    assert not canary.exists() and "modelling_RW" not in sys.modules

    class Malicious:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {canary}",)

    torch.save({"weight": Malicious()}, folder / "pytorch_model.bin")
    with pytest.raises(Damaged, match="system"):
        load(folder, tmp_path)
    assert not canary.exists()


def test_an_unknown_family_is_refused_by_name(tmp_path: Path) -> None:
    folder = FAMILIES["gptj"](tmp_path / "gptj")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "model_type": "martian"})
    with pytest.raises(Unsupported, match="martian"):
        load(folder, tmp_path)
    chatglm = FAMILIES["chatglm"](tmp_path / "glm")
    config = json.loads((chatglm / "config.json").read_text())
    write_json(chatglm / "config.json", {**config, "multi_query_attention": True})
    with pytest.raises(Unsupported, match="ChatGLM2"):
        load(chatglm, tmp_path)


def test_a_config_that_makes_no_model_is_an_error_in_words(tmp_path: Path) -> None:
    for i, change in enumerate(({"num_attention_heads": 0}, {"hidden_size": "wide"}, {"num_attention_heads": 7})):
        folder = FAMILIES["llama"](tmp_path / str(i))
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", {**config, **change})
        with pytest.raises(NinestoryError):
            load(folder, tmp_path)
        shutil.rmtree(folder)
