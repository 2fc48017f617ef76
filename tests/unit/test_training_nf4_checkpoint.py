"""A checkpoint in 4 bits on disk: bitsandbytes' own layout, read back by us and by transformers' reader of the header."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch
from bitsandbytes.functional import QuantState as BitsandbytesState
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ninestory.architectures.nf4_linear import NF4Linear, dequantize
from ninestory.core.errors import Damaged, Unsupported
from ninestory.core.progress import Silent
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.torch.load_model import load_model
from ninestory.training.nf4_checkpoint import convert_to_nf4
from ninestory.training.quantized_base import quantize_model

pytestmark = pytest.mark.torch


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    ).eval()


def bloom() -> PreTrainedModel:
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(vocab_size=96, hidden_size=64, n_layer=2, n_head=4)).eval()


def resolved(path: Path, architecture: str) -> ResolvedModel:
    return ResolvedModel(
        reference=path.name, path=path, format="safetensors", architecture=architecture, tasks=("chat",), context=64
    )


@pytest.fixture(params=[llama, bloom])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    model = request.param()
    model.save_pretrained(tmp_path / "plain")
    return model, convert_to_nf4(tmp_path / "plain", tmp_path / "nf4", Silent())


def test_it_loads_as_what_quantising_in_memory_gives(both: tuple[PreTrainedModel, Path]) -> None:
    model, folder = both
    loaded, report = load_model(resolved(folder, model.config.model_type))
    names = quantize_model(model)
    assert sorted(report.packed) == sorted(names)
    ids = torch.arange(20)[None] % 96
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-6, rtol=0)
    assert all(isinstance(loaded.get_submodule(name), NF4Linear) for name in names)


def test_bitsandbytes_reads_the_same_weights(both: tuple[PreTrainedModel, Path]) -> None:
    model, folder = both
    stored = load_file(folder / "model.safetensors")
    loaded, report = load_model(resolved(folder, model.config.model_type))
    name = report.packed[0]
    key = next(
        k for k in stored if k.endswith(f"{name}.weight") or f"{loaded.base_model_prefix}.{k}" == f"{name}.weight"
    )
    parts = {k.removeprefix(f"{key}."): v for k, v in stored.items() if k.startswith(f"{key}.")}
    state = BitsandbytesState.from_dict(parts, device=torch.device("cpu"))
    ours = loaded.get_submodule(name)
    assert torch.equal(dequantize_4bit(stored[key], state), dequantize(ours.weight, ours.state))


def test_packed_already_and_broken_states_are_refused(both: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    model, folder = both
    with pytest.raises(Unsupported, match="quantised already"):
        convert_to_nf4(folder, tmp_path / "again", Silent())
    tensors = load_file(folder / "model.safetensors")
    key = next(k for k in tensors if k.endswith(".absmax") and "nested" not in k)
    tensors[key] = tensors[key][:-1].clone()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(Damaged, match="does not hold together"):
        load_model(resolved(folder, model.config.model_type))


def test_the_config_says_how_it_is_packed(both: tuple[PreTrainedModel, Path]) -> None:
    settings = json.loads((both[1] / "config.json").read_text())["quantization_config"]
    assert settings["quant_method"] == "bitsandbytes" and settings["bnb_4bit_quant_type"] == "nf4"
