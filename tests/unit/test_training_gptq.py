"""A whole model by GPTQ: the blocks are calibrated one after another, and adapters train on the packs."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ninestory.architectures.gptq_calibration import round_to_nearest
from ninestory.architectures.gptq_linear import GPTQLinear
from ninestory.core.errors import InvalidRequest
from ninestory.core.progress import Silent
from ninestory.runtimes.torch.load_model import load_model_folder
from ninestory.training.gptq import convert_to_gptq, quantize_with_calibration
from ninestory.training.quantized_base import replace_linears, with_packed_targets

pytestmark = pytest.mark.torch


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4
    )
    return LlamaForCausalLM(config).eval()


def gptj() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPTJConfig(vocab_size=96, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, n_positions=64)
    return GPTJForCausalLM(config).eval()


def batches(seed: int, count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 96, (4, 32), generator=generator) for _ in range(count)]


def change(model: PreTrainedModel, original: PreTrainedModel) -> float:
    """Mean squared change of the logits on ids that were not calibrated on."""
    with torch.no_grad():
        return sum((model(ids).logits - original(ids).logits).square().mean().item() for ids in batches(99, 2))


@pytest.mark.parametrize("make", [llama, gptj])
def test_calibration_changes_the_logits_less_than_rounding_does(make) -> None:
    original, rounded, calibrated = make(), make(), make()
    head = rounded.get_output_embeddings()

    def pack(_: str, linear: torch.nn.Linear) -> GPTQLinear | None:
        return None if linear is head else GPTQLinear.from_quantized(round_to_nearest(linear.weight, 4), 4, linear.bias)

    replaced = replace_linears(rounded, pack)
    errors = quantize_with_calibration(calibrated, batches(1), activation_order=True)
    assert sorted(errors) == sorted(replaced)
    assert type(calibrated.get_output_embeddings()) is torch.nn.Linear
    assert change(calibrated, original) < 0.8 * change(rounded, original)


def test_lora_trains_on_the_packs() -> None:
    model = llama()
    quantize_with_calibration(model, batches(1), group_size=32)
    packs = {name: value.clone() for name, value in model.state_dict().items() if "qweight" in name}
    config = with_packed_targets(LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    adapted = get_peft_model(model, config).train()  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    ids = batches(5, 1)[0]
    losses = []
    for _ in range(8):
        loss = adapted(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    after = {name.replace(".base_layer", ""): v for name, v in adapted.base_model.model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in packs.items())


def test_no_calibration_text_is_said() -> None:
    with pytest.raises(InvalidRequest, match="calibration text is empty"):
        quantize_with_calibration(llama(), [])


def test_a_checkpoint_is_packed_and_loads_as_packs(tmp_path: Path) -> None:
    original = llama()
    original.save_pretrained(tmp_path / "plain")
    vocabulary = {chr(0x100 + b) if not chr(b).isprintable() else chr(b): b for b in range(33, 127)} | {"Ġ": 32}
    tokenizer = Tokenizer(models.BPE(vocab={k: v % 96 for k, v in vocabulary.items() if v < 96}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "plain" / "tokenizer.json"))
    text = " ".join(f"A{n} B{n % 7}" for n in range(400))
    errors = convert_to_gptq(tmp_path / "plain", tmp_path / "packed", text, Silent(), group_size=32, length=64)
    packed, report = load_model_folder(tmp_path / "packed")
    assert sorted(report.packed) == sorted(errors)
    assert change(packed, original) < 0.05 * sum(original(ids).logits.square().mean().item() for ids in batches(99, 2))
    with pytest.raises(InvalidRequest, match="calibration text is empty"):
        convert_to_gptq(tmp_path / "plain", tmp_path / "none", "A", Silent())
    assert not (tmp_path / "none").exists()
