"""GPTQ calibration, packing and both layouts against the original packers (tests/fixtures/gptq/README.md)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from ninestory.architectures.gptq_calibration import Grid, Hessian, Quantized, calibrate, round_to_nearest
from ninestory.architectures.gptq_linear import (
    GPTQLinear,
    LLMTuneLinear,
    dequantize,
    dequantize_llmtune,
    unpack_zeros,
)
from ninestory.training.quantized_base import with_packed_targets

from .conftest import FIXTURES

pytestmark = pytest.mark.torch
FOLDER = FIXTURES / "gptq"
EXISTS = FOLDER.exists()
PACKED = load_file(FOLDER / "gptq_v1_pack.safetensors") if EXISTS else {}
LLMTUNE = load_file(FOLDER / "llmtune_layout.safetensors") if EXISTS else {}
CASES = json.loads((FOLDER / "cases.json").read_text())["cases"] if EXISTS else []
LORA_OUTPUT = re.compile(r"y_lora_r(\d+)_alpha(\d+)")
SAME_ENTRIES = 0.995  # a rounding tie may flip one step and spread

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])


def parts(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key.rsplit(".", 1)[1]: value for key, value in PACKED.items() if key.startswith(f"{case['name']}.")}


@each_case
def test_dequantised_weight_and_output(case: dict[str, Any]) -> None:
    data = parts(case)
    weight = dequantize(data["qweight"], data["qzeros"], data["scales"], data["g_idx"], 4, torch.float32).T  # [out, in]
    assert torch.equal(weight, data["dequant"])
    assert (weight - data["weight_q"]).abs().max() < 4e-4  # the scales are stored in float16
    outputs, inputs = weight.shape
    linear = GPTQLinear(inputs, outputs, 4, inputs // data["scales"].shape[0], bias=True)
    linear.load_state_dict({k: data[k] for k in ("qweight", "qzeros", "scales", "g_idx", "bias")})
    torch.testing.assert_close(linear(PACKED["x"]), data["y"], atol=1e-5, rtol=1e-5)


@each_case
def test_packed_integers(case: dict[str, Any]) -> None:
    data = parts(case)
    given = Quantized(data["weight_q"], data["scale_f32"], data["zero"], data["g_idx"], None)
    packed = GPTQLinear.from_quantized(given, 4, PACKED["bias"]).state_dict()
    for key in ("qweight", "qzeros", "scales", "g_idx", "bias"):
        assert torch.equal(packed[key], data[key]), key


@each_case
def test_calibration(case: dict[str, Any]) -> None:
    data = parts(case)
    if case["calib"]:
        made = calibrate(
            PACKED["weight"],
            PACKED["hessian"],
            4,
            case["gs"],
            symmetric=case["sym"],
            activation_order=case["act"],
        )
        assert made.error == pytest.approx(case["error"], rel=5e-3)
    else:
        made = round_to_nearest(PACKED["weight"], 4, case["gs"], case["sym"])
    same = (made.weight - data["weight_q"]).abs() < 1e-4
    assert same.float().mean() >= SAME_ENTRIES
    assert torch.equal(made.g_idx, data["g_idx"])


@pytest.mark.parametrize("data", [PACKED, LLMTUNE], ids=["gptq-for-llama", "llmtune"])
def test_hessian_of_the_calibration_inputs(data: dict[str, torch.Tensor]) -> None:
    hessian = Hessian(data["weight"].shape[1])
    for batch in data["calib_x"]:
        hessian.add(batch)
    scale = data["hessian"].abs().max()
    assert (hessian.matrix - data["hessian"]).abs().max() / scale < 1e-4


def test_a_zero_point_of_zero() -> None:
    data = load_file(FOLDER / "zero_point_zero.safetensors")
    inputs = data["weight"].shape[1]
    given = Quantized(data["weight_q"], data["scale_f32"], data["zero"], torch.zeros(inputs, dtype=torch.int32), None)
    packed = GPTQLinear.from_quantized(given, 4)
    assert torch.equal(packed.qzeros, data["qzeros_nibble_masked"])
    assert not torch.equal(packed.qzeros, data["qzeros_upstream_corrupt"])
    assert torch.equal(packed.qweight, data["qweight"])
    assert torch.equal(unpack_zeros(packed.qzeros, 4).float(), data["zero"].T)
    assert (data["zero"] == 0).any()


def test_llmtune_calibration_and_packing() -> None:
    made = calibrate(LLMTUNE["weight"], LLMTUNE["hessian"], 4)
    assert ((made.weight - LLMTUNE["weight_q"]).abs() < 1e-4).float().mean() >= SAME_ENTRIES
    torch.testing.assert_close(made.scale, LLMTUNE["scale"])
    given = Quantized(LLMTUNE["weight_q"], LLMTUNE["scale"], LLMTUNE["zero"], made.g_idx, None)
    packed = LLMTuneLinear.from_quantized(given, LLMTUNE["bias_in"]).state_dict()
    for key in ("qweight", "scales", "zeros", "bias"):
        assert torch.equal(packed[key], LLMTUNE[key]), key
    weight = dequantize_llmtune(LLMTUNE["qweight"], LLMTUNE["scales"], LLMTUNE["zeros"], torch.float32).T
    torch.testing.assert_close(weight, LLMTUNE["weight_q"], atol=1e-5, rtol=1e-5)


def llmtune_linear() -> LLMTuneLinear:
    outputs, inputs = LLMTUNE["weight"].shape
    linear = LLMTuneLinear(inputs, outputs)
    linear.load_state_dict({key: LLMTUNE[key] for key in ("qweight", "scales", "zeros", "bias")})
    return linear


def test_llmtune_forward_and_backward() -> None:
    x = LLMTUNE["x"].clone().requires_grad_()
    y = llmtune_linear()(x)
    torch.testing.assert_close(y, LLMTUNE["y"], atol=1e-5, rtol=1e-5)
    y.backward(LLMTUNE["grad_out"])
    torch.testing.assert_close(x.grad, LLMTUNE["grad_x"], atol=1e-5, rtol=1e-5)


def test_lora_over_packed_weights() -> None:
    key, rank, alpha = next((k, int(m[1]), int(m[2])) for k in LLMTUNE if (m := LORA_OUTPUT.fullmatch(k)))
    model = torch.nn.ModuleDict({"packed": llmtune_linear()})
    config = with_packed_targets(LoraConfig(r=rank, lora_alpha=alpha, target_modules=["packed"]))
    layer = get_peft_model(model, config).base_model.model["packed"]  # type: ignore[arg-type]
    layer.lora_A["default"].weight.data = LLMTUNE["lora_A"].clone()
    layer.lora_B["default"].weight.data = LLMTUNE["lora_B"].clone()
    torch.testing.assert_close(layer(LLMTUNE["x"]), LLMTUNE[key], atol=1e-5, rtol=1e-5)


def test_a_row_of_zeros_has_a_grid() -> None:
    grid = Grid.of(torch.zeros(1, 8), 4)
    assert torch.equal(grid.snap(torch.zeros(1, 8)), torch.zeros(1, 8))
