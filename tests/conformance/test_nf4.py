"""4-bit blocks, double quantisation and a QLoRA run against bitsandbytes and peft (tests/fixtures/nf4/README.md)."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from ninestory.architectures.nf4_linear import (
    CODE_VALUES,
    NF4Linear,
    QuantState,
    dequantize,
    dynamic_map,
    quantize,
    state_tensors,
)
from ninestory.training.quantized_base import dequantize_model, quantize_model, with_packed_targets

from .conftest import FIXTURES

pytestmark = pytest.mark.torch
FOLDER = FIXTURES / "nf4"
DATA = load_file(FOLDER / "nf4.safetensors") if FOLDER.exists() else {}
CASES = sorted({key.rsplit(".", 1)[0] for key in DATA if key.endswith(".packed")})
SAVED = sorted({key.split(".state_dict.")[0] for key in DATA if ".state_dict." in key})
BOUNDARY_SHARE = 0.001  # entries that may fall on the other side of a decision boundary


def differing(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours != theirs).float().mean().item()


def test_the_code_tables() -> None:
    assert torch.equal(torch.tensor(CODE_VALUES["nf4"]), DATA["nf4_code"])
    assert torch.equal(torch.tensor(CODE_VALUES["fp4"]), DATA["fp4_code"])
    assert torch.equal(dynamic_map(), DATA["dynamic_code_256"])


@pytest.mark.parametrize("case", CASES)
def test_quantise_and_back(case: str) -> None:
    name, code, block, form = case.split(".")
    weight, theirs = (
        DATA[f"{name}.weight"],
        {k.rsplit(".", 1)[1]: v for k, v in DATA.items() if k.startswith(f"{case}.")},
    )
    packed, state = quantize(weight, code, int(block[1:]), double=form == "dq")  # type: ignore[arg-type]
    assert differing(packed, theirs["packed"].flatten()) <= BOUNDARY_SHARE
    assert differing(state.absmax, theirs["absmax"].flatten()) <= (BOUNDARY_SHARE if form == "dq" else 0)
    if form == "dq":
        torch.testing.assert_close(state.offset, theirs["offset"].squeeze(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(state.nested_absmax, theirs["nested_absmax"].flatten(), atol=1e-6, rtol=1e-6)
    given = QuantState(
        code,  # type: ignore[arg-type]
        int(block[1:]),
        weight.dtype,
        tuple(weight.shape),  # type: ignore[arg-type]
        theirs["absmax"].flatten(),
        theirs["nested_absmax"].flatten() if form == "dq" else None,
        theirs["offset"].squeeze() if form == "dq" else None,
    )
    back = dequantize(theirs["packed"], given)
    if weight.dtype == torch.float32:
        assert torch.equal(back, theirs["dequant"])
    else:
        torch.testing.assert_close(back, theirs["dequant"], atol=0, rtol=torch.finfo(weight.dtype).eps)


@pytest.mark.parametrize("name", SAVED)
def test_the_saved_form_is_bitsandbytes_own(name: str) -> None:
    base = name.split(".")[0]
    saved = {k.split(".state_dict.")[1]: v for k, v in DATA.items() if k.startswith(f"{name}.state_dict.")}
    weight = DATA[f"{base}.weight"]
    _, state = quantize(weight)
    ours = state_tensors(state)
    assert set(ours) == set(saved)
    header = next(key for key in saved if key.startswith("quant_state"))
    given, made = json.loads(bytes(saved[header].tolist())), json.loads(bytes(ours[header].tolist()))
    assert made.pop("nested_offset") == pytest.approx(given.pop("nested_offset"), abs=1e-6)
    assert made == given
    linear = NF4Linear(weight.shape[1], weight.shape[0], bias=False)
    packed = DATA[f"{name}.packed"].reshape(-1, 1)
    linear.load_state_dict({"weight": packed} | {f"weight.{key}": value for key, value in saved.items()})
    again = linear.state_dict()
    assert torch.equal(again["weight"], packed)
    for key, value in saved.items():
        assert torch.equal(again[f"weight.{key}"], value), key


def test_linear_forward_and_backward() -> None:
    plain = torch.nn.Linear(DATA["lin.weight"].shape[1], DATA["lin.weight"].shape[0])
    plain.load_state_dict({"weight": DATA["lin.weight"], "bias": DATA["lin.bias"]})
    linear = NF4Linear.from_linear(plain)
    x = DATA["lin.x"].clone().requires_grad_()
    y = linear(x)
    torch.testing.assert_close(y, DATA["lin.y"], atol=1e-6, rtol=1e-6)
    y.backward(DATA["lin.grad_out"])
    torch.testing.assert_close(x.grad, DATA["lin.grad_x"], atol=1e-6, rtol=1e-6)


def test_stored_bits_are_those_of_the_paper() -> None:
    _, state = quantize(torch.zeros(1024, 1024))
    assert state.bits_per_weight() == pytest.approx(4.127, abs=1e-3)


STEP = json.loads((FOLDER / "qlora_step.json").read_text()) if FOLDER.exists() else {}
TENSORS = load_file(FOLDER / "qlora_step.safetensors") if FOLDER.exists() else {}


def group(prefix: str) -> dict[str, torch.Tensor]:
    return {key[len(prefix) + 1 :]: value for key, value in TENSORS.items() if key.startswith(f"{prefix}.")}


def base_model() -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**STEP["config"]))
    model.load_state_dict(group("base"))
    return model


def with_lora(model: LlamaForCausalLM, values: str) -> PeftModel:
    lora = STEP["lora"]
    config = LoraConfig(
        r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"], target_modules=lora["target_modules"]
    )
    adapted = get_peft_model(model, with_packed_targets(config))  # type: ignore[arg-type]
    set_peft_model_state_dict(adapted, {f"base_model.model.{key}": value for key, value in group(values).items()})
    return adapted  # type: ignore[return-value]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TENSORS["input_ids"][0], attention_mask=TENSORS["attention_mask"][0]).logits


def close(ours: torch.Tensor, name: str, atol: float = 2e-5) -> None:
    seen = TENSORS["attention_mask"][0].bool()  # what stands at a padded position depends on the attention kernel
    torch.testing.assert_close(ours[seen], TENSORS[name][seen], atol=atol, rtol=0)


def test_the_base_before_and_after_quantising() -> None:
    model = base_model()
    close(logits(model), "logits_fp_base")
    quantize_model(model)
    assert isinstance(model.lm_head, torch.nn.Linear)
    close(logits(model), "logits_4bit_base")


def test_a_qlora_run_gives_the_same_losses_gradients_and_adapter() -> None:
    model = base_model()
    quantize_model(model)
    adapted = with_lora(model, "lora_init").train()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == len(group("lora_init"))
    optimizer = torch.optim.AdamW(trained.values(), lr=STEP["lr"], weight_decay=0)
    gradients = {}
    for step, (loss, norm) in enumerate(zip(STEP["losses"], STEP["grad_norms_before_clip"], strict=True)):
        batch = {key: TENSORS[key][step] for key in ("input_ids", "attention_mask", "labels")}
        made = adapted(**batch).loss
        assert made.item() == pytest.approx(loss, abs=2e-5)
        optimizer.zero_grad()
        made.backward()
        gradients = gradients or {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
        total = torch.nn.utils.clip_grad_norm_(trained.values(), STEP["max_grad_norm"])
        assert total.item() == pytest.approx(norm, abs=1e-4)
        optimizer.step()
    for key, value in group("lora_grad0").items():
        name = f"base_model.model.{key.removesuffix('.weight')}.default.weight"
        torch.testing.assert_close(gradients[name], value, atol=1e-5, rtol=0)
    for key, value in group("lora_final").items():  # Adam divides by small second moments: 1e-4 on another processor
        name = f"base_model.model.{key.removesuffix('.weight')}.default.weight"
        torch.testing.assert_close(trained[name].data, value, atol=1e-4, rtol=0)
    close(logits(adapted.eval()), "logits_after", 1e-4)


def test_merging_is_exact_only_into_the_dequantised_base() -> None:
    model = base_model()
    quantize_model(model)
    close(logits(with_lora(model, "lora_final").eval()), "logits_after")
    model = base_model()
    quantize_model(model)
    dequantize_model(model)
    merged = with_lora(model, "lora_final").eval().merge_and_unload()
    close(logits(merged), "logits_merged_dequant")
    seen = TENSORS["attention_mask"][0].bool()
    assert (logits(merged) - TENSORS["logits_after"])[seen].abs().max() < 1e-5
    original = with_lora(base_model(), "lora_final").eval().merge_and_unload()
    close(logits(original), "logits_merged_fp")
    assert (logits(original) - TENSORS["logits_after"])[seen].abs().max() > 0.01  # the wrong base is seen to be wrong
