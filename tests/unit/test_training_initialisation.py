"""Where LoRA starts: PiSSA changes nothing at first and belongs to the original base; LoftQ repairs what packing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from ninestory.core.errors import InvalidRequest  # noqa: E402
from ninestory.training.adapter_files import load_adapter  # noqa: E402
from ninestory.training.adapter_save import save_adapter  # noqa: E402
from ninestory.training.methods import adapt_model  # noqa: E402
from ninestory.training.quantized_base import dequantize_model, quantize_model  # noqa: E402
from ninestory.training.run_folder import RunFolder  # noqa: E402
from ninestory.training.settings import Method, TrainSettings  # noqa: E402
from tests.tiny_training import rows, tiny_llama, trainer  # noqa: E402

IDS = torch.tensor([[5, 17, 200, 31, 8]])


def logits(model: Any) -> Any:
    model.eval()
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("name", ["lora", "rslora"])
def test_pissa_is_trained_on_the_rest_and_saved_for_the_original_base(name: Any, tmp_path: Path) -> None:
    base = logits(tiny_llama())
    adapted = adapt_model(tiny_llama(), Method(name=name, rank=4, init="pissa"), seed=0, total_steps=8)
    torch.testing.assert_close(logits(adapted.module), base, rtol=1e-4, atol=1e-4)
    layer = adapted.module.get_base_model().model.layers[0].self_attn.q_proj
    weight = tiny_llama().model.layers[0].self_attn.q_proj.weight
    best = torch.linalg.svdvals(weight)[:4].prod()  # the factors hold the four largest directions
    product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(torch.linalg.svdvals(product)[:4].prod(), best, rtol=1e-3, atol=1e-6)
    settings = TrainSettings(max_steps=8, batch_size=6, learning_rate=1e-2, save_every=0)
    trainer(adapted, rows(6), settings, RunFolder(tmp_path / "run")).run()
    trained = logits(adapted.module)
    assert not torch.allclose(trained, base, atol=1e-2)
    folder = save_adapter(adapted, tmp_path / "adapter", "base", {}, tmp_path)
    loaded = load_adapter(tiny_llama(), folder)
    torch.testing.assert_close(logits(loaded), trained, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits(loaded.merge_and_unload()), trained, rtol=1e-3, atol=1e-4)


def test_loftq_starts_nearer_to_the_float_model_than_the_packed_base(tmp_path: Path) -> None:
    whole = tiny_llama(hidden_size=64, intermediate_size=64)
    wanted = logits(whole)
    packed = tiny_llama(hidden_size=64, intermediate_size=64)
    quantize_model(packed)
    plain = logits(packed)
    method = Method(name="qlora", rank=16, init="loftq")
    adapted = adapt_model(
        packed, method, seed=0, total_steps=1, original=lambda path: whole.get_submodule(path).weight.detach()
    )
    started = logits(adapted.module)
    assert (started - wanted).norm() < 0.8 * (plain - wanted).norm()
    path = "model.layers.1.mlp.down_proj"
    layer, weight = adapted.module.get_base_model().get_submodule(path), whole.get_submodule(path).weight
    lost = weight - layer.base_layer.to_linear(torch.float32).weight
    made = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    left = torch.linalg.svdvals(lost)[16:].square().sum().sqrt()  # Eckart and Young: no rank 16 does better
    torch.testing.assert_close((lost - made).norm(), left, rtol=1e-3, atol=1e-6)
    folder = save_adapter(adapted, tmp_path / "adapter", "base", {}, tmp_path)
    again = tiny_llama(hidden_size=64, intermediate_size=64)
    quantize_model(again)
    dequantize_model(again)
    torch.testing.assert_close(logits(load_adapter(again, folder).merge_and_unload()), started, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "init"), [("qlora", "pissa"), ("dora", "pissa"), ("lora", "loftq"), ("ia3", "loftq")])
def test_a_start_that_does_not_go_with_the_method_is_refused(name: Any, init: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{init} does not go with {name}"):
        adapt_model(tiny_llama(), Method(name=name, init=init), seed=0, total_steps=1)


@pytest.mark.parametrize("tied", [True, False])
def test_tables_of_the_vocabulary_are_trained_whole_beside_lora(tied: bool, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    method = Method(rank=2, modules_to_save=["embed_tokens", "lm_head"])
    adapted = adapt_model(tiny_llama(tie_word_embeddings=tied), method, seed=0, total_steps=8)
    settings = TrainSettings(max_steps=8, batch_size=6, learning_rate=1e-2, save_every=0)
    result = trainer(adapted, rows(6), settings, RunFolder(tmp_path / "run")).run()
    assert result.losses[-1] < result.losses[0]
    trained = logits(adapted.module)
    folder = save_adapter(adapted, tmp_path / "adapter", "base", {}, tmp_path)
    assert (folder / "tokenizer.model").is_file()
    merged = load_adapter(tiny_llama(tie_word_embeddings=tied), folder).merge_and_unload()
    torch.testing.assert_close(logits(merged), trained, rtol=1e-3, atol=1e-4)
    assert not torch.equal(merged.lm_head.weight, tiny_llama(tie_word_embeddings=tied).lm_head.weight)
